"""PyTorch and ONNX Runtime, in a process of `.venv-peers` that measures when told.

`peers.Peers` starts it. It says its versions in one line, then answers each case, a
line of JSON on its standard input, with the seconds of one call.
"""

import functools
import importlib.metadata
import json
import sys
import time

import numpy as np
import onnxruntime
import torch
import transformers

CLASSES = 1001
PACKAGES = {
  "PyTorch": "torch",
  "transformers": "transformers",
  "ONNX Runtime": "onnxruntime",
}


def _pixels(batch_size, image_size):
  """Returns images as both read them: `[batch, 3, height, width]`, channels last."""
  images = torch.randn(batch_size, 3, image_size, image_size)
  return images.contiguous(memory_format=torch.channels_last)


@functools.cache
def _network():
  """Returns Hugging Face's MobileNetV2 1.0, which pads as TensorFlow does."""
  config = transformers.MobileNetV2Config(num_labels=CLASSES)
  network = transformers.MobileNetV2ForImageClassification(config)
  return network.to(memory_format=torch.channels_last)


@functools.cache
def _training_step(batch_size, image_size):
  network = _network()
  optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
  images = _pixels(batch_size, image_size)
  labels = torch.zeros(batch_size, dtype=torch.int64)

  def step():
    network.train()
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(network(images).logits, labels)
    loss.backward()
    optimizer.step()

  return step


@functools.cache
def _inference(batch_size, image_size):
  network, images = _network(), _pixels(batch_size, image_size)

  def infer():
    network.eval()
    with torch.inference_mode():
      network(images)

  return infer


@functools.cache
def _onnx(path, num_threads, batch_size, image_size):
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = num_threads
  session = onnxruntime.InferenceSession(
    path, options, providers=["CPUExecutionProvider"]
  )
  images = np.random.default_rng(0).integers(
    0, 256, (batch_size, image_size, image_size, 3)
  )
  pixels = images.astype(np.float32)
  return lambda: session.run(None, {"inputs": pixels})


CASES = {"training step": _training_step, "inference": _inference, "ONNX": _onnx}


def main():
  """Answers until the standard input ends."""
  num_threads = int(sys.argv[1])
  torch.set_num_threads(num_threads)
  versions = [f"{name} {importlib.metadata.version(p)}" for name, p in PACKAGES.items()]
  print(", ".join(versions), flush=True)
  for line in sys.stdin:
    name, calls, arguments = json.loads(line)
    run = CASES[name](*arguments)
    start = time.perf_counter()
    for _ in range(calls):
      run()
    print((time.perf_counter() - start) / calls, flush=True)


if __name__ == "__main__":
  main()
