"""What is printed when a preparation has ended."""

from mnv2_hpu.data_preparation import imagenet, prepare


def summary(result: prepare.PreparationResult) -> str:
  """Returns the lines to print when a preparation has ended."""
  info = result.info
  lines = [f"{result.output_dir}: {info.num_classes} classes"]
  for name, split in info.splits.items():
    counts = dict(enumerate(split.examples_per_class))
    if info.label_names[0] == imagenet.BACKGROUND and info.source == imagenet.NAME:
      del counts[0]
    few, many = min(counts.values()), max(counts.values())
    lines.append(
      f"  {name:<10} {split.num_examples:>9,} images in {split.num_shards} shards, "
      f"{few:,} to {many:,} per class"
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
  if not result.num_written:
    lines.append("  it was there already: nothing was written")
    return "\n".join(lines)
  if result.num_kept:
    lines.append(f"  continued: {result.num_kept:,} images were written before")
  rate = result.num_written / max(result.seconds, 1e-9)
  lines.append(f"  {result.seconds:.1f} s, {rate:,.0f} images/s")
  return "\n".join(lines)
