"""MobileNetV2 for the TensorFlow Model Garden: on Gaudi, Horovod, CPU and GPU."""

import importlib

__version__ = "0.1.0"

__all__ = ["__version__", "register"]


def register() -> None:
  """Registers this plugin with the installed Model Garden. Idempotent.

  After it, the unmodified driver (`official.vision.train`) and every other program that
  uses Model Garden knows this package's names. What changes outside the package is this
  and nothing else (`tests/test_register.py` compares before and after):

  * `official.common.distribute_utils.get_distribution_strategy`: knows `hpu` and
    `horovod` too, and refuses strategies that would not join the ranks of a job.
  * `official.vision.modeling.backbones.factory._REGISTERED_BACKBONE_CLS` and
    `official.vision.configs.backbones.Backbone`: the backbones `mobilenet_v2`, `nasnet`
    and `pnasnet`, choices in every experiment, the stock ones included.
  * `official.modeling.optimization.optimizer_factory.LEGACY_OPTIMIZERS_CLS` and
    `official.modeling.optimization.configs.optimization_config.OptimizerConfig`: the
    optimizer `rmsprop_tf1`.
  * `official.modeling.optimization.optimizer_factory.LR_CLS` and
    `official.modeling.optimization.configs.optimization_config.LrConfig`: the learning
    rate schedules `exponential_slim` and `polynomial_slow_start`.
  * `official.core.exp_factory._REGISTERED_CONFIGS` and
    `official.core.task_factory._REGISTERED_TASK_CLS`: the experiments
    `mobilenet_v2_classification`, `mobilenet_v2_ssdlite`, `mobilenet_v2_deeplabv3`,
    `mobilenet_v2_deeplabv3plus`, `nasnet_classification`, and their tasks.
  * `official.core.train_utils.try_count_flops`: a run ends without it.
  * `keras.src.saving.object_registration._GLOBAL_CUSTOM_OBJECTS` and
    `keras.src.saving.object_registration._GLOBAL_CUSTOM_NAMES` (`tf_keras.src…` on
    TensorFlow 2.20): the classes of backbones and of their layers, so that a saved
    model of them loads.
  * `gin.config._INVERSE_REGISTRY`: what gin may bind as `mobilenet_v2_classification.…`
    (likewise the other experiments) and `mnv2_hpu.…`.
  * `gin.config._LOCATION_PREFIXES`: gin finds `imagenet.gin` and `gin/imagenet.gin`
    from any working directory.
  * `gin.config.bind_parameter`, `gin.bind_parameter` and `gin.config._FILE_READERS`:
    parameters and files by the names of the last release, with a warning.
  * `gin.config._FINALIZE_HOOKS`: after gin was parsed, non-chief ranks get a model
    folder of their own, where the trainer is this package's; bindings that the chosen
    experiment does not read are refused, as are misspelt macros.
  * `sys.excepthook`: a user's mistake ends with one message instead of a traceback.

  TensorFlow is imported here, not by `import mnv2_hpu`.
  """
  importlib.import_module("mnv2_hpu.registry_imports")
