"""Weights from checkpoints into models."""

from mnv2_hpu.checkpoints.detectors import load_detector
from mnv2_hpu.checkpoints.keras_nasnet import load_keras_nasnet
from mnv2_hpu.checkpoints.pretrained import load_pretrained
from mnv2_hpu.checkpoints.segmenters import load_segmenter
from mnv2_hpu.checkpoints.slim import load_slim_checkpoint

__all__ = [
  "load_detector",
  "load_keras_nasnet",
  "load_pretrained",
  "load_segmenter",
  "load_slim_checkpoint",
]
