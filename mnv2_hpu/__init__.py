"""MobileNetV2 for the TensorFlow Model Garden: on Gaudi, Horovod, CPU and GPU."""

import importlib

__version__ = "0.1.0"

__all__ = ["__version__", "register"]


def register() -> None:
  """Registers this plugin with the installed Model Garden. Idempotent.

  After it, the unmodified driver (`official.vision.train`) knows

  * the backbone `mobilenet_v2` (`task.model.backbone.mobilenet_v2`), in every
    experiment, its own as well as the stock ones;
  * the optimizer `rmsprop_tf1` (`trainer.optimizer_config.optimizer.rmsprop_tf1`);
  * the experiment `mobilenet_v2_classification`;
  * the strategy `hpu` (`runtime.distribution_strategy`); every other name goes to
    Model Garden unchanged.

  TensorFlow is imported here, not by `import mnv2_hpu`.
  """
  importlib.import_module("mnv2_hpu.registry_imports")
