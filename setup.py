"""Packaging: the distribution `mnv2-hpu`, with the gin files that it trains from."""

import re
from pathlib import Path

import setuptools

HERE = Path(__file__).parent

COMMANDS = (
  "data_service",
  "demo_mobilenetv2",
  "doctor",
  "evaluate",
  "export",
  "import_checkpoint",
  "launch",
  "predict",
  "prepare_data",
  "quickstart",
  "report",
  "train",
  "verify_data",
)

GAUDI = [
  "habana-tensorflow==1.14.0.493",
  "tensorflow-cpu==2.15.0.post1",
  "tf-models-official==2.15.*",
]


def version() -> str:
  """Reads the version from the package without importing it."""
  text = (HERE / "mnv2_hpu" / "__init__.py").read_text()
  return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)[1]


def readme() -> str:
  """Returns the text that the package index shows."""
  return (HERE / "README.md").read_text()


setuptools.setup(
  name="mnv2-hpu",
  version=version(),
  description="MobileNetV2 for the TensorFlow Model Garden: Gaudi, Horovod, CPU, GPU",
  long_description=readme(),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  classifiers=[
    "License :: OSI Approved :: Apache Software License",
    "Programming Language :: Python :: 3.10",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Programming Language :: Python :: 3.13",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
  ],
  python_requires=">=3.10,<3.14",
  packages=[
    *setuptools.find_packages(include=["mnv2_hpu", "mnv2_hpu.*"]),
    "mnv2_hpu.gin",
  ],
  # The gin files stand at the top of the repository, and hold no __init__.py: a package
  # called `gin` there would hide gin-config.
  package_dir={"mnv2_hpu.gin": "gin"},
  package_data={
    "mnv2_hpu.gin": ["**/*.gin", "**/*.yaml"],
    "mnv2_hpu.distribute": ["*.json"],
    "mnv2_hpu.native": ["*.cc"],
  },
  # TensorFlow itself is left to Model Garden's requirements: `tensorflow` and
  # `tensorflow-cpu` provide the same module, and Gaudi needs the latter. What only one
  # stack needs beside that: STACKS in mnv2_hpu/compat.py.
  install_requires=[
    "absl-py>=1.4,<2",
    "gin-config>=0.5,<0.6",
    "h5py>=3.10,<4",
    "matplotlib>=3.8,<4",
    "numpy>=1.26,<2.4",
    "packaging>=23",
    "Pillow>=10.1,<14",
    "protobuf>=3.20",
    "pycocotools>=2.0.6,<3",
    "PyYAML>=5.4",
    "safetensors>=0.4,<1",
    "scikit-learn>=1.3,<2",
    "standard-imghdr; python_version >= '3.13'",  # Model Garden 2.20 imports imghdr
    "tensorboard>=2.15",
    # Later ones need a protobuf that TensorFlow 2.15 cannot be imported with: on Python
    # 3.10 pip therefore takes the 2.15 stack, as `make setup` does.
    "tensorflow-datasets>=4.9,<4.9.8; python_version < '3.11'",
    "tensorflow-datasets>=4.9,<5; python_version >= '3.11'",
    "tensorflow-metadata>=1.15,<1.16; python_version < '3.11'",
    "tensorflow-metadata>=1.15,<2; python_version >= '3.11'",
    "tf-models-official>=2.15,<2.21,!=2.16.*,!=2.17.*,!=2.18.*,!=2.19.*",
    "tqdm>=4.60,<5",
  ],
  extras_require={
    "gaudi": GAUDI,
    "hpu": GAUDI,  # the name of 0.1
    "horovod": ["horovod==0.28.1"],
    "beam": ["apache-beam>=2.77,<3"],
    "onnx": ["onnxruntime>=1.17,<2", "tf2onnx>=1.17,<2"],
  },
  entry_points={
    "console_scripts": [
      f"mnv2-{name.replace('_', '-')} = mnv2_hpu.cli.{name}:entry_point"
      for name in COMMANDS
    ]
  },
)
