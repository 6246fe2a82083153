"""The commands: flags, and one call. TensorFlow is imported when `main` runs."""

from mnv2_hpu import tf_environment

tf_environment.configure()  # before any command imports TensorFlow
