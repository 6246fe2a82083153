"""One self-contained HTML page on a training run; it opens without a network."""

import html
import os
from collections.abc import Mapping, Sequence

import numpy as np

from mnv2_hpu import files
from mnv2_hpu.reporting import plots
from mnv2_hpu.reporting.curves import Curves
from mnv2_hpu.reporting.plots import Calibration, Sample

# With more classes, the pairs that are confused most often are listed instead.
MAX_MATRIX_CLASSES = 24
MAX_PAIRS = 20

_CSS = """
:root { color-scheme: light; --ink: #1f2933; --muted: #616e7c; --rule: #e4e7eb;
  --blue: 0 114 178; --red: 213 94 0; }
* { box-sizing: border-box; }
body { margin: 0; background: #f7f9fb; color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 24px; }
h2 { font-size: 18px; margin: 0 0 4px; }
section { background: #fff; border: 1px solid var(--rule); border-radius: 12px;
  padding: 20px 24px; margin-top: 20px; }
p { margin: 0 0 14px; color: var(--muted); }
.tiles { display: grid; gap: 16px;
  grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); }
.tile { background: #fff; border: 1px solid var(--rule); border-radius: 12px;
  padding: 14px 18px; }
.tile b { display: block; font-size: 26px; line-height: 1.3; }
.tile span { color: var(--muted); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.summary { width: 100%; }
.summary td, .summary th, .pairs td, .pairs th {
  text-align: left; padding: 6px 16px 6px 0;
  border-top: 1px solid var(--rule); vertical-align: top; }
.summary th { font-weight: 500; color: var(--muted); width: 240px; }
.summary td { overflow-wrap: anywhere; }
.charts { display: flex; flex-wrap: wrap; gap: 12px; }
.charts img { flex: 1 1 320px; min-width: 0; max-width: min(100%, 480px); }
.scroll { overflow-x: auto; }
.matrix { font-size: 13px; }
.matrix td { width: 42px; height: 32px; text-align: center;
  border: 1px solid var(--rule); }
.matrix thead td { border: 0; }
.matrix th { padding: 0 10px; font-weight: 500; color: var(--muted);
  max-width: 160px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.matrix tbody th { text-align: right; }
.samples { display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fill, minmax(84px, 1fr)); }
.scenes { display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); }
.triples { grid-template-columns: repeat(auto-fill, minmax(440px, 1fr)); }
.triples figure img { aspect-ratio: auto; background: none; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0 0 14px; }
.legend i, .swatch { display: inline-block; width: 13px; height: 13px;
  border-radius: 3px; border: 1px solid var(--muted); margin-right: 6px; }
.bar { display: inline-block; height: 9px; margin-right: 8px;
  background: rgb(var(--blue)); border-radius: 2px; }
figure { margin: 0; text-align: center; font-size: 13px; line-height: 1.3; }
figure img { width: 100%; aspect-ratio: 1; object-fit: contain; background: #000;
  border-radius: 8px; image-rendering: pixelated; display: block; margin-bottom: 4px; }
figure small { color: var(--muted); }
figure.wrong img { outline: 3px solid rgb(var(--red)); outline-offset: 1px; }
figure.wrong figcaption { color: rgb(174 68 0); font-weight: 600; }
footer { margin-top: 24px; color: var(--muted); font-size: 13px; }
"""


def write_report(
  path: str | os.PathLike[str],
  *,
  title: str,
  highlights: Mapping[str, str],
  summary: Mapping[str, str],
  sections: Sequence[str],
  footer: str = "",
) -> None:
  """Writes the page; text from outside is escaped, images are embedded.

  Args:
    path: HTML file to write.
    title: Heading.
    highlights: A few numbers for large type: name to text.
    summary: Table of settings and results: name to text.
    sections: What `section` and the functions below return, in order.
    footer: Line at the end, such as versions.
  """
  body = (_tiles(highlights), section("Summary", "", _table(summary)), *sections)
  page = (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{html.escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n"
    f"<main>\n<h1>{html.escape(title)}</h1>\n"
    + "\n".join(body)
    + f"\n<footer>{html.escape(footer)}</footer>\n</main>\n</body>\n</html>\n"
  )
  with files.atomic_write(path) as file:
    file.write(page)


def section(heading: str, caption: str, body: str) -> str:
  """Returns a section of the page.

  Args:
    heading: Its heading, text.
    caption: A sentence under it, text; "" for none.
    body: Its content, HTML.
  """
  caption = f"<p>{html.escape(caption)}</p>" if caption else ""
  return f"<section>\n<h2>{html.escape(heading)}</h2>\n{caption}{body}\n</section>"


def _tiles(highlights: Mapping[str, str]) -> str:
  tiles = (
    f'<div class="tile"><b>{html.escape(text)}</b>'
    f"<span>{html.escape(name)}</span></div>"
    for name, text in highlights.items()
  )
  return f'<div class="tiles">{"".join(tiles)}</div>'


def _table(summary: Mapping[str, str]) -> str:
  rows = (
    f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(text)}</td></tr>'
    for name, text in summary.items()
  )
  return f'<table class="summary">{"".join(rows)}</table>'


def learning_curves(curves: Curves) -> str:
  """Returns a section with the scalars that a run has logged."""
  images = (
    f'<img alt="{chart.title} by training step" src="'
    f'{plots.data_uri(plots.chart_svg(chart, curves), "image/svg+xml")}">'
    for chart in plots.charts_of(curves)
  )
  return section("Learning curves", "", f'<div class="charts">{"".join(images)}</div>')


def confusion_matrix(confusion: np.ndarray, class_names: Sequence[str]) -> str:
  """Returns a section with the classes that are taken for each other.

  Args:
    confusion: Number of images by true class (row) and predicted class (column),
      `[num_classes, num_classes]`.
    class_names: Name of each label.
  """
  total, correct = int(confusion.sum()), int(np.trace(confusion))
  wrong = f"{total - correct:,} of {total:,} held-out images are predicted wrongly."
  if len(class_names) <= MAX_MATRIX_CLASSES:
    caption = f"Rows: true class. Columns: prediction. {wrong}"
    return section("Confusion matrix", caption, _matrix(confusion, class_names))
  caption = f"The pairs of classes that are confused most often. {wrong}"
  return section("Confusions", caption, _pairs(confusion, class_names))


def calibration_chart(calibration: Calibration) -> str:
  """Returns a section that says how often predictions of a probability are right."""
  caption = (
    "How often predictions of a probability are right; on the diagonal they are as "
    f"often right as they say. Expected calibration error: {calibration.error:.2%}."
  )
  image = plots.data_uri(plots.calibration_svg(calibration), "image/svg+xml")
  chart = f'<div class="charts"><img alt="Calibration" src="{image}"></div>'
  return section("Calibration", caption, chart)


def _matrix(confusion: np.ndarray, class_names: Sequence[str]) -> str:
  names = [html.escape(name) for name in class_names]
  head = "".join(f'<th scope="col" title="{name}">{name}</th>' for name in names)
  fractions = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
  rows = []
  for label, name in enumerate(names):
    cells = "".join(
      _cell(int(confusion[label, column]), fractions[label, column], label == column)
      for column in range(len(names))
    )
    rows.append(f'<tr><th scope="row" title="{name}">{name}</th>{cells}</tr>')
  return (
    f'<div class="scroll"><table class="matrix"><thead><tr><td></td>{head}</tr></thead>'
    f"<tbody>{''.join(rows)}</tbody></table></div>"
  )


def _cell(count: int, fraction: float, is_correct: bool) -> str:
  if not count:
    return "<td></td>"
  # A single mistake among hundreds must still be seen: no fainter than 0.2.
  color, alpha = (
    ("blue", 0.55 * fraction) if is_correct else ("red", max(0.2, fraction))
  )
  style = f"background: rgb(var(--{color}) / {alpha:.2f})"
  return f'<td style="{style}" title="{fraction:.1%} of the row">{count:,}</td>'


def _pairs(confusion: np.ndarray, class_names: Sequence[str]) -> str:
  errors = confusion * (1 - np.eye(len(confusion), dtype=confusion.dtype))
  order = np.argsort(-errors, axis=None, kind="stable")[:MAX_PAIRS]
  rows = (
    f"<tr><td>{html.escape(class_names[label])}</td>"
    f"<td>{html.escape(class_names[column])}</td>"
    f"<td>{errors[label, column]:,}</td></tr>"
    for label, column in zip(*np.unravel_index(order, errors.shape), strict=True)
    if errors[label, column]
  )
  head = "<tr><th>true class</th><th>predicted as</th><th>images</th></tr>"
  return f'<table class="pairs">{head}{"".join(rows)}</table>'


def classified_images(
  heading: str, samples: Sequence[Sample], class_names: Sequence[str]
) -> str:
  """Returns a section of images with their predictions.

  Args:
    heading: Its heading.
    samples: Held-out images.
    class_names: Name of each label.
  """
  figures = "".join(_figure(sample, class_names) for sample in samples)
  caption = (
    "Prediction and its probability; wrong ones are framed, with the true class."
  )
  grid = f'<div class="samples">{figures}</div>'
  return section(heading, caption, grid)


def _figure(sample: Sample, class_names: Sequence[str]) -> str:
  predicted = html.escape(class_names[sample.prediction])
  true = html.escape(class_names[sample.label])
  image = plots.data_uri(plots.png(sample.image), "image/png")
  caption = f"{predicted} <small>{sample.probability:.0%}</small>"
  if not sample.is_correct:
    caption += f"<br>is {true}"
  state = "correct" if sample.is_correct else "wrong"
  return (
    f'<figure class="{state}"><img alt="{true}" src="{image}">'
    f"<figcaption>{caption}</figcaption></figure>"
  )
