"""What a preparation made: dataset.json, warnings, and the lines to print."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import mnv2_hpu
from mnv2_hpu.data_preparation import imagenet, shards, workspace
from mnv2_hpu.data_preparation.listing import Listing
from mnv2_hpu.data_preparation.shards import printable
from mnv2_hpu.dataloaders.dataset_info import COUNTS_OF_TASK, DatasetInfo, SplitInfo
from mnv2_hpu.errors import UserError, counted, shorten

_MIN_UNUSED_BITS = 2  # leave a class a quarter as bright as it could be, or less
_MAX_NAMES = 10


_COUNTED = {  # by task
  "classification": "",
  "detection": "boxes ",
  "segmentation": "pixels ",
}


def used_labels(data: Listing | DatasetInfo) -> range:
  """Returns the labels that things have: not the background of ImageNet and boxes."""
  has_background = data.source == imagenet.NAME or data.task == "detection"
  return range(1 if has_background else 0, len(data.label_names))


@dataclasses.dataclass(frozen=True)
class PreparationResult:
  """What was prepared.

  Attributes:
    info: Content of dataset.json.
    output_dir: Folder of the data set.
    num_written: Images read by this run; 0 where the data set was there already.
    num_kept: Images in shards that an earlier, unfinished run had written.
    seconds: Seconds that this run took.
  """

  info: DatasetInfo
  output_dir: str
  num_written: int
  num_kept: int
  seconds: float

  def summary(self) -> str:
    """Returns the lines to print when a preparation has ended."""
    info = self.info
    labels = used_labels(info)
    lines = [f"{self.output_dir}: {info.num_classes} classes"]
    for name, split in info.splits.items():
      counts = {label: split.counts(info.task)[label] for label in labels}
      lines.append(
        f"  {name:<10} {split.num_examples:>9,} images in "
        f"{counted(split.num_shards, 'shard')}, "
        f"{min(counts.values()):,} to {max(counts.values()):,} {_COUNTED[info.task]}"
        "per class"
      )
      lines += [
        f"    none of {info.label_names[i]!r}" for i, n in counts.items() if not n
      ]
    for title, entries in (("skipped", info.skipped), ("converted", info.converted)):
      lines.append(f"  {title:<10} {len(entries):>9,} images")
      lines += [f"    {entry['file']}: {entry['reason']}" for entry in entries[:10]]
      if len(entries) > 10:
        lines.append(f"    and {len(entries) - 10:,} more, listed in dataset.json")
    lines += [f"  warning: {line}" for line in info.warnings]
    if not self.num_written:
      return "\n".join([*lines, "  all images were there already"])
    if self.num_kept:
      lines.append(f"  resumed: {self.num_kept:,} images were written before")
    rate = self.num_written / max(self.seconds, 1e-9)
    return "\n".join([*lines, f"  {self.seconds:.1f} s, {rate:,.0f} images/s"])


@dataclasses.dataclass(frozen=True)
class PartResult:
  """What one of several hosts prepared.

  Attributes:
    part: Which of how many.
    output_dir: Folder of the data set.
    num_shards: Shards of this part.
    num_written: Images read by this run.
    num_kept: Images in shards that an earlier run had written.
    seconds: Seconds that this run took.
  """

  part: workspace.Part
  output_dir: str
  num_shards: int
  num_written: int
  num_kept: int
  seconds: float

  def summary(self) -> str:
    """Returns the lines to print when a part has ended."""
    number, of = self.part
    return (
      f"{self.output_dir}: part {number} of {of}, {counted(self.num_shards, 'shard')}: "
      f"{self.num_written:,} images written, {self.num_kept:,} were there, "
      f"{self.seconds:.1f} s\n"
      "When all parts have ended, give the same command without --shard: it writes "
      "what is missing, and dataset.json."
    )


def summarize(
  listing: Listing,
  plan: Mapping[str, Any],
  work: workspace.Workspace,
) -> DatasetInfo:
  """Adds the reports of all shards up.

  Raises:
    UserError: If a shard has no readable image, or a class none to train on.
  """
  skipped = [{**entry, "file": printable(entry["file"])} for entry in listing.skipped]
  converted: list[dict[str, str]] = []
  bits_used: dict[str, int] = {}
  num_oriented = 0
  is_labelled = listing.task == "classification"
  infos = {}
  remarks = {kind: [*entry] for kind, entry in listing.dropped.items()}
  for split, count in plan["shards"].items():
    names = shards.shard_names(split, count)
    report = shards.merge_reports(work.report_path(name) for name in names)
    skipped += report.skipped
    converted += report.converted
    num_oriented += sum(report.oriented_per_class)
    for label, bits in enumerate(report.bits_used):
      if bits:
        name = listing.label_names[label] if is_labelled else ""
        bits_used[name] = max(bits_used.get(name, 0), bits)
    for kind, (number, file) in report.remarks.items():
      remarks.setdefault(kind, [0, file])[0] += number
    infos[split] = SplitInfo(
      report.num_records,
      count,
      f"{split}-*-of-{count:05d}",
      **{COUNTS_OF_TASK[listing.task]: report.counts_per_class},
    )
  left_out = [f"{n:,} {kind} ({file})" for kind, (n, file) in remarks.items()]
  left_out += [f"{entry['file']}: {entry['reason']}" for entry in skipped]
  _check_train(listing, infos["train"], left_out, work)
  return DatasetInfo(
    source=listing.source,
    label_names=list(listing.label_names),
    num_classes=len(listing.label_names),
    splits=infos,
    skipped=sorted(skipped, key=lambda entry: entry["file"]),
    converted=sorted(converted, key=lambda entry: entry["file"]),
    seed=plan["seed"],
    validation_fraction=listing.validation_fraction,
    source_checksum=listing.checksum,
    tool_version=mnv2_hpu.__version__,
    significant_bits=plan["significant_bits"],
    max_side=plan["max_side"],
    jpeg_quality=plan["jpeg_quality"],
    warnings=[
      *listing.warnings,
      *(f"{n:,} {kind} (the first: {file})" for kind, (n, file) in remarks.items()),
      *image_warnings(num_oriented, bits_used, plan["significant_bits"]),
    ],
    task=listing.task,
    category_ids=list(listing.category_ids),
  )


def _check_train(
  listing: Listing, train: SplitInfo, reasons: Sequence[str], work: workspace.Workspace
) -> None:
  """Checks that there is something of every class to train on; of boxes, of any."""
  labels, counts = used_labels(listing), train.counts(listing.task)
  lacking = [label for label in labels if not counts[label]]
  advice = (
    f"Fix the input, then delete {work.output_dir} and run the same command again."
  )
  if listing.task == "classification" and lacking:
    raise UserError(
      f"the class {listing.label_names[lacking[0]]!r} has no image to train on: all "
      f"are held out, or were skipped. {_first_reasons(reasons)}{advice}"
    )
  if len(lacking) == len(labels):
    raise UserError(
      f"no image to train on has a usable annotation. {_first_reasons(reasons)}{advice}"
    )


def _first_reasons(reasons: Sequence[str]) -> str:
  return f"Left out: {shorten(reasons, 3)}. " if reasons else ""


def image_warnings(
  num_oriented: int, bits_used: Mapping[str, int], significant_bits: int
) -> list[str]:
  """Returns a line for each kind of images that people should look at.

  Args:
    num_oriented: Images with an EXIF orientation other than upright.
    bits_used: Bits of the largest sample in the 16-bit images of a class, by its name;
      an empty one for images that have no one class.
    significant_bits: Bits that these images were scaled by.
  """
  lines = []
  if num_oriented:
    lines.append(
      f"{num_oriented:,} images have an EXIF orientation, which is ignored: no decoder "
      "in an export reads it. To train and serve them upright, rotate the files "
      "(exiftran -ai, mogrify -auto-orient) and prepare again."
    )
  largest = max([8, *bits_used.values()])
  advice = (
    f"--significant_bits={largest} suits the whole set, and is exported."
    if largest < 16
    else "Others use all 16, so no one scale suits the set: convert these files."
  )
  for bits in sorted(set(bits_used.values())):
    names = [name for name in bits_used if bits_used[name] == bits]
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    classes = ", ".join(map(repr, filter(None, names[:_MAX_NAMES]))) + more
    of_classes = f" of {classes}" if classes else ""
    start = f"16-bit images{of_classes} use {bits} bits of {significant_bits}"
    if bits > significant_bits:
      lines.append(f"{start}: what exceeds them is white. {advice}")
    elif bits <= significant_bits - _MIN_UNUSED_BITS:
      brightest = (1 << bits) - 1 >> significant_bits - 8
      lines.append(f"{start}: their pixels are at most {brightest} of 255. {advice}")
  return lines
