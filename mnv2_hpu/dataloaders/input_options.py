"""What an input pipeline of image classification reads, and how."""

import dataclasses

from mnv2_hpu import errors
from mnv2_hpu.dataloaders import inception_preprocessing, record_check

PREPROCESSINGS = ("inception", "model_garden")


@dataclasses.dataclass(frozen=True)
class InputOptions:
  """What is read, and how.

  Attributes:
    input_path: Paths or glob patterns of TFRecords (`record_files.match_files`).
    global_batch_size: Examples a step, over all replicas of all pipelines.
    is_training: Endless, shuffled and distorted; otherwise in order, padded.
    image_size: Height and width of the images in pixels.
    num_classes: Labels lie in [0, num_classes).
    preprocessing: `inception` (values in [-1, 1]), or `model_garden` (mean and
      standard deviation; of `preprocessing_options` it honours `crop` and `flip`, and
      its random choices come from TensorFlow's global generator, so that neither two
      runs nor a resumed one distort alike).
    preprocessing_options: Parameters of the Inception preprocessing.
    shuffle_buffer_size: Records among which training draws the next one.
    seed: From it follow the order of files and records and all distortions. To be
      the same in all processes.
    start_step: Step at which training resumes: its batches, and all after it, are bit
      for bit those that an uninterrupted run reads there.
    repeat_evaluation: Whether evaluation is endless too: all batches again and again.
    num_examples: Records in all files; None counts them where the number is needed.
    max_corrupt_records: Most training records of a pipeline that cannot be read and
      are skipped; one more stops the run. Each is logged with its file, and the next
      readable record stands in for it. Evaluation stops at the first.
    cache: Whether to keep the encoded records of this pipeline in memory.
    cycle_length: Files read at the same time; None takes up to 16.
    deterministic: Whether training reads in exactly the order that follows from the
      seed; False does not wait for a slow file or image, which gives up that two runs
      of one seed, or a run that was interrupted and one that was not, read the same
      records in the same order with the same distortions. Evaluation always does.
    prefetch: Batches made ahead; None leaves it to tf.data.
    autotune_ram_mib: Most memory in MiB for what tf.data makes ahead by its own choice
      of threads and buffers. The shuffle buffer and the cache come on top.
    image_field_key: Feature that holds the encoded image.
    label_field_key: Feature that holds the label.
  """

  input_path: str | tuple[str, ...]
  global_batch_size: int
  is_training: bool
  image_size: tuple[int, int]
  num_classes: int
  preprocessing: str = "inception"
  preprocessing_options: inception_preprocessing.PreprocessingOptions = (
    inception_preprocessing.DEFAULT_OPTIONS
  )
  shuffle_buffer_size: int = 10000
  seed: int = 0
  start_step: int = 0
  repeat_evaluation: bool = False
  num_examples: int | None = None
  max_corrupt_records: int = 100
  cache: bool = False
  cycle_length: int | None = None
  deterministic: bool = True
  prefetch: int | None = None
  autotune_ram_mib: int = 2048
  image_field_key: str = record_check.IMAGE_KEY
  label_field_key: str = record_check.LABEL_KEY

  def __post_init__(self) -> None:
    """Refuses values that no pipeline can be built from."""
    if self.preprocessing not in PREPROCESSINGS:
      raise errors.UserError(
        f"Unknown preprocessing {self.preprocessing!r}. "
        + errors.did_you_mean(self.preprocessing, PREPROCESSINGS)
      )
    counts = {
      "global_batch_size": self.global_batch_size,
      "image height": self.image_size[0],
      "image width": self.image_size[1],
      "num_classes": self.num_classes,
      "shuffle_buffer_size": self.shuffle_buffer_size,
      "autotune_ram_mib": self.autotune_ram_mib,
    }
    if self.max_corrupt_records < 0:
      raise errors.UserError(
        f"max_corrupt_records is {self.max_corrupt_records}; it must be at least "
        "0, which stops at the first."
      )
    for name, value in counts.items():
      if value < 1:
        raise errors.UserError(f"{name} is {value}; it must be at least 1.")
