"""Figures of a report: learning curves, and images with their predictions."""

import base64
import dataclasses
import io
import os
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from mnv2_hpu import files
from mnv2_hpu.reporting.curves import Curve, Curves

# Okabe and Ito's colours, which the colour-blind can tell apart.
BLUE, ORANGE, GREEN, RED = "#0072b2", "#e69f00", "#009e73", "#d55e00"
INK, MUTED, RULE = "#1f2933", "#616e7c", "#e4e7eb"

_STYLE: dict[str, Any] = {
  "font.size": 9,
  "text.color": INK,
  "axes.titlesize": 10,
  "axes.titleweight": "bold",
  "axes.titlelocation": "left",
  "axes.edgecolor": RULE,
  "axes.labelcolor": MUTED,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.axisbelow": True,
  "grid.color": RULE,
  "grid.linewidth": 0.6,
  "xtick.color": MUTED,
  "ytick.color": MUTED,
  "legend.frameon": False,
  "legend.fontsize": 8,
  "lines.linewidth": 1.6,
  "svg.hashsalt": "mnv2_hpu",  # the same bytes for the same run
}


_MAX_CAPTION = 24


@dataclasses.dataclass(frozen=True)
class Sample:
  """One held-out image and its prediction.

  Attributes:
    image: Pixels, uint8 `[height, width, 3]` or `[height, width]`.
    label: True class.
    prediction: Class of the highest probability.
    probability: Probability of `prediction`, in [0, 1].
  """

  image: np.ndarray
  label: int
  prediction: int
  probability: float

  @property
  def is_correct(self) -> bool:
    """Whether the prediction is the label."""
    return self.prediction == self.label


@dataclasses.dataclass(frozen=True)
class Calibration:
  """How often predictions are right, by their probability, in bins of equal width.

  Attributes:
    counts: Predictions in each bin, `[bins]`.
    confidence: Their mean probability, `[bins]`; 0 in an empty bin.
    accuracy: Fraction of them that is right, `[bins]`; 0 in an empty bin.
  """

  counts: np.ndarray
  confidence: np.ndarray
  accuracy: np.ndarray

  @property
  def error(self) -> float:
    """The expected calibration error (Guo et al., 2017, equation 3), in [0, 1]."""
    gaps = np.abs(self.confidence - self.accuracy)
    return float(np.average(gaps, weights=self.counts)) if self.counts.any() else 0.0


@dataclasses.dataclass(frozen=True)
class Line:
  """One curve of a chart: where it is logged, and its style."""

  split: str
  tag: str
  label: str
  color: str
  style: str = "-"


@dataclasses.dataclass(frozen=True)
class Chart:
  """One diagram over the training steps."""

  title: str
  lines: tuple[Line, ...]
  is_percentage: bool = False


CHARTS = (
  Chart(
    "Loss",
    (
      Line("train", "training_loss", "training", BLUE),
      Line("validation", "validation_loss", "held out", ORANGE),
    ),
  ),
  Chart(
    "Top-1 accuracy",
    (
      Line("train", "accuracy", "training", BLUE),
      Line("validation", "raw_accuracy", "held out, raw weights", GREEN, "--"),
      Line("validation", "accuracy", "held out, EMA weights", ORANGE),
    ),
    is_percentage=True,
  ),
  Chart(
    "Mean IoU",
    (Line("validation", "mean_iou", "held out", ORANGE),),
    is_percentage=True,
  ),
  Chart(
    "Average precision",
    (
      Line("validation", "AP50", "held out, IoU 0.5", ORANGE),
      Line("validation", "AP", "held out, IoU 0.5 to 0.95", BLUE),
    ),
    is_percentage=True,
  ),
  Chart("Learning rate", (Line("train", "learning_rate", "learning rate", BLUE),)),
)


def _logged(chart: Chart, curves: Curves) -> list[tuple[Line, Curve]]:
  """Returns the lines of a chart that the run has logged."""
  found = ((line, getattr(curves, line.split).get(line.tag)) for line in chart.lines)
  return [(line, curve) for line, curve in found if curve]


def charts_of(curves: Curves) -> list[Chart]:
  """Returns the charts of which the run has logged a curve."""
  return [chart for chart in CHARTS if _logged(chart, curves)]


def _draw(axes: Axes, chart: Chart, curves: Curves) -> None:
  logged = _logged(chart, curves)
  for line, curve in logged:
    steps, values = zip(*curve, strict=True)
    marker = "o" if len(curve) < 30 else None
    axes.plot(
      steps,
      values,
      line.style,
      color=line.color,
      label=line.label,
      marker=marker,
      markersize=3,
    )
  axes.set_title(chart.title)
  axes.set_xlabel("step")
  axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
  if chart.is_percentage:
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0))
  else:
    axes.set_ylim(0.0, 1.05 * axes.dataLim.ymax or 1.0)  # a rate may be 0 throughout
  if len(logged) > 1:
    axes.legend()


def chart_svg(chart: Chart, curves: Curves) -> bytes:
  """Draws one chart as an SVG document."""
  return _svg(lambda axes: _draw(axes, chart, curves))


def calibration_svg(calibration: Calibration) -> bytes:
  """Draws the accuracy of each bin of probabilities as an SVG document."""

  def draw(axes: Axes) -> None:
    filled = calibration.counts > 0
    width = 1 / len(filled)
    left = np.flatnonzero(filled) * width
    axes.bar(left, calibration.accuracy[filled], width, align="edge", color=BLUE)
    axes.plot([0, 1], [0, 1], "--", color=ORANGE)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability", ylabel="right")
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0))

  return _svg(draw)


def precision_recall_svg(curves: Sequence[tuple[str, np.ndarray]]) -> bytes:
  """Draws precision against recall as an SVG document, a line for each class.

  Args:
    curves: Name, and precision at recalls spread evenly over [0, 1].
  """

  def draw(axes: Axes) -> None:
    for name, precision in curves:
      recall = np.linspace(0, 1, len(precision))
      axes.plot(recall, precision, label=name, linewidth=1.1)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0))
    axes.legend(ncols=2, fontsize=7)

  return _svg(draw)


def _svg(draw: Callable[[Axes], None]) -> bytes:
  with mpl.rc_context(_STYLE):
    figure = Figure(figsize=(4.4, 3.0), layout="constrained")
    draw(figure.subplots())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
  return buffer.getvalue()


def png(image: np.ndarray) -> bytes:
  """Encodes a uint8 image, `[height, width, 3]` or `[height, width]`, as PNG."""
  from PIL import Image

  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, format="PNG")
  return buffer.getvalue()


def jpeg(image: np.ndarray) -> bytes:
  """Encodes a uint8 image, `[height, width, 3]`, as JPEG of full color resolution."""
  from PIL import Image

  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, format="JPEG", quality=85, subsampling=0)
  return buffer.getvalue()


def data_uri(content: bytes, mime_type: str) -> str:
  """Returns a URI that holds its content, so that a page needs no other file.

  >>> data_uri(b"abc", "image/png")
  'data:image/png;base64,YWJj'
  """
  return f"data:{mime_type};base64,{base64.b64encode(content).decode()}"


def save_overview_png(
  path: str | os.PathLike[str],
  *,
  curves: Curves,
  samples: Sequence[Sample],
  class_names: Sequence[str],
  columns: int = 12,
) -> None:
  """Writes one figure of a run: its curves above, predictions of images below.

  Args:
    path: PNG file to write.
    curves: Scalars that the run has logged.
    samples: Images to show, `columns` in a row.
    class_names: Name of each label.
    columns: Number of images in a row.
  """
  charts = charts_of(curves)
  rows = -(-len(samples) // columns)
  heights = [3.0, 1.02 * rows]
  with mpl.rc_context(_STYLE):
    figure = Figure(figsize=(12, sum(heights)), dpi=120, layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=heights)
    for axes, chart in zip(
      upper.subplots(1, len(charts), squeeze=False)[0], charts, strict=True
    ):
      _draw(axes, chart, curves)
    cells = lower.subplots(rows, columns, squeeze=False).ravel()
    for axes in cells:
      axes.set_axis_off()
    for axes, sample in zip(cells, samples, strict=False):
      _draw_sample(axes, sample, class_names)
    with files.atomic_write(path, "wb") as file:
      figure.savefig(file, format="png", metadata={"Software": None})


def save_contact_sheet(
  path: str | os.PathLike[str],
  encoded: Sequence[bytes],
  captions: Sequence[tuple[str, str]],
  columns: int = 8,
  cell_inches: float = 1.5,
) -> None:
  """Writes one figure of many images, each with a caption.

  Args:
    path: PNG file to write.
    encoded: Images, JPEG or PNG.
    captions: Two lines for each.
    columns: Number of images in a row.
    cell_inches: Width of each in inches of 120 pixels.
  """
  from PIL import Image

  columns = min(columns, len(encoded))
  rows = -(-len(encoded) // columns)
  max_pixels = max(320, round(150 * cell_inches))
  with mpl.rc_context(_STYLE):
    size = (cell_inches * columns, (cell_inches + 0.35) * rows)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in cells:
      axes.set_axis_off()
    for axes, content, caption in zip(cells, encoded, captions, strict=False):
      with Image.open(io.BytesIO(content)) as image:
        thumbnail = image.convert("RGB")
      thumbnail.thumbnail((max_pixels, max_pixels))
      axes.imshow(thumbnail)
      text = "\n".join(_cut(" ".join(line.split())) for line in caption)
      # No mathematics, whatever characters a class is called by.
      axes.set_title(text, loc="center", fontsize=8, parse_math=False)
    with files.atomic_write(path, "wb") as file:
      figure.savefig(
        file,
        format="png",
        bbox_inches="tight",  # constrained layout cuts captions of two lines
        metadata={"Software": None},
      )


def _cut(text: str) -> str:
  return text if len(text) <= _MAX_CAPTION else f"{text[: _MAX_CAPTION - 1]}…"


def _draw_sample(axes: Axes, sample: Sample, class_names: Sequence[str]) -> None:
  axes.imshow(sample.image, cmap="gray", interpolation="nearest")
  name = class_names[sample.prediction]
  text = name if sample.is_correct else f"{name} (is {class_names[sample.label]})"
  axes.set_title(
    text,
    loc="center",
    fontsize=8,
    fontweight="normal" if sample.is_correct else "bold",
    color=INK if sample.is_correct else RED,
    pad=3,
  )
