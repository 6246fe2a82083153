"""Registers everything with Model Garden: the only module imported for its effect.

The first line of every gin file is `import mnv2_hpu.registry_imports`.
"""

# ruff: noqa: F401
from official.vision import registry_imports

from mnv2_hpu import deprecations, driver_flags, error_reports, log_filters
from mnv2_hpu.configs import (
  backbones,
  gin_files,
  image_classification,
  nasnet_classification,
  object_detection,
  optimizers,
  quantization,
  semantic_segmentation,
)
from mnv2_hpu.core import trainer
from mnv2_hpu.distribute import strategies, worker_dirs
from mnv2_hpu.modeling import complexity, mobilenet_v2, nasnet
from mnv2_hpu.tasks import image_classification as image_classification_task
from mnv2_hpu.tasks import object_detection as object_detection_task
from mnv2_hpu.tasks import quantization as quantization_task
from mnv2_hpu.tasks import semantic_segmentation as semantic_segmentation_task

gin_files.add_search_path()
gin_files.install_experiment_check()
gin_files.install_macro_check()
deprecations.install_gin_names()
strategies.install_hook()
worker_dirs.install()
log_filters.install()
complexity.install_count()
driver_flags.install_path_check()
error_reports.install_excepthook(driver_flags.given_paths)
