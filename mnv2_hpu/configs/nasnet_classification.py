"""NASNet and PNASNet classifying images: the recipe and its experiment.

Sources: the notes beside the `hparams` in slim's `nasnet.py`, appendix A of the paper
(arXiv 1707.07012), and slim's `train_image_classifier.py`.
"""

import dataclasses
from typing import Any

import gin
from official.core import config_definitions as cfg
from official.core import exp_factory
from official.vision.configs import backbones as upstream_backbones
from official.vision.configs import common

from mnv2_hpu.configs import image_classification
from mnv2_hpu.configs.backbones import BACKBONES, NASNet
from mnv2_hpu.configs.recipe import NASNET, ClassificationRecipe
from mnv2_hpu.modeling import nasnet_plans


@dataclasses.dataclass
class NASNetRecipe(ClassificationRecipe):
  """NASNet or PNASNet, by default as slim's notes train `nasnet_mobile`.

  Fields of the network that are None, and `norm_momentum` and `norm_epsilon` where they
  are 0, have the value that slim gives them for this `model_id`.
  """

  model_id: str = NASNet.model_id  # a key of nasnet_plans.HPARAMS, pnasnet_… too
  stem: str | None = NASNet.stem
  num_cells: int | None = NASNet.num_cells
  num_conv_filters: int | None = NASNet.num_conv_filters
  stem_multiplier: float | None = NASNet.stem_multiplier
  filter_scaling_rate: float | None = NASNet.filter_scaling_rate
  skip_reduction_layer_input: bool | None = NASNet.skip_reduction_layer_input
  drop_path_keep_prob: float | None = NASNet.drop_path_keep_prob
  # Steps in which the drop path grows; 0: all of the training.
  total_training_steps: int = 0
  zero_padded_pools: bool = NASNet.zero_padded_pools
  # Above 0 adds the auxiliary head; the published recipes have 0.4.
  auxiliary_loss_weight: float = (
    image_classification.ImageClassificationModel.auxiliary_loss_weight
  )
  activation: str = "relu"
  norm_momentum: float | None = 0.0
  norm_epsilon: float = 0.0
  dropout_rate: float = 0.5
  learning_rate: float | None = 0.04
  decay_rate: float = 0.97
  decay_epochs: float = 2.4
  batch_size: int | None = 32
  train_epochs: float | None = 312.2  # 250,000 steps of 1,600 of ImageNet's images
  gradient_clip_norm: float = 10.0

  def model_fields(self, train_steps: int) -> dict[str, Any]:
    """Returns the backbone, its batch norm and the auxiliary head.

    Raises:
      UserError: If the network is unknown.
    """
    network = nasnet_plans.hparams(None, self.model_id)
    family = network.family
    values = self.values_of(NASNet)
    values["total_training_steps"] = self.total_training_steps or train_steps
    norm = self.values_of(common.NormActivation)
    norm["norm_momentum"] = norm["norm_momentum"] or network.norm_momentum
    # None is the network's own, of another model_id by an override too.
    norm["norm_epsilon"] = norm["norm_epsilon"] or None
    return {
      "backbone": upstream_backbones.Backbone(
        type=family, **{family: BACKBONES[family](**values)}
      ),
      "norm_activation": common.NormActivation(**norm),
      "auxiliary_loss_weight": self.auxiliary_loss_weight,
    }


configured_recipe = gin.external_configurable(NASNetRecipe, NASNET, module="mnv2_hpu")


@exp_factory.register_config_factory(NASNET)
def nasnet_classification() -> cfg.ExperimentConfig:
  """Returns the experiment of the recipe that gin has bound.

  Raises:
    UserError: If a value is impossible.
  """
  return image_classification.experiment(configured_recipe())
