"""A program whose training input's labels go to files, as ranks are handed them.

  python -m helpers_recorded_labels FOLDER MODULE ARGUMENTS…

Rank R writes the labels of each batch in one line of FOLDER/R. The network is that of
`helpers_small_network`.
"""

import pathlib
import runpy
import sys

import helpers_small_network
import tensorflow as tf

from mnv2_hpu.tasks import image_classification


def _recording(dataset, path):
  def write(labels):
    with path.open("a") as file:
      file.write(" ".join(map(str, labels.tolist())) + "\n")
    return labels

  def record(images, labels):
    written = tf.numpy_function(write, [labels], labels.dtype)
    return images, tf.ensure_shape(written, labels.shape)

  return dataset.map(record)


def main():
  """Runs the module that the command line names."""
  helpers_small_network.install()
  folder = pathlib.Path(sys.argv[1])
  sys.argv = sys.argv[2:]
  task = image_classification.ImageClassificationTask
  build_inputs = task.build_inputs

  def build_recorded_inputs(self, params, input_context=None, **kwargs):
    dataset = build_inputs(self, params, input_context, **kwargs)
    return _recording(dataset, folder / str(input_context.input_pipeline_id))

  task.build_inputs = build_recorded_inputs
  runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
  main()
