import base64
import html.parser
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from mnv2_hpu.reporting import plots, report
from mnv2_hpu.reporting.curves import Curves

CURVES = Curves(
  train={"training_loss": [(10, 2.0), (20, 1.0)], "learning_rate": [(10, 0.045)]},
  validation={"validation_loss": [(20, 1.5)], "accuracy": [(20, 0.75)]},
)
NAMES = ["cat", "<b>dog</b>", "Å & co"]

CHROMIUM = shutil.which("chromium")
# --disable-…: of its own accord it would look for updates and synchronize.
BROWSER = (
  *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
  *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
# Puts into the title what the page has loaded: pixels across of each image, addresses.
PROBE = """<script>addEventListener("load", () => {
  const names = performance.getEntriesByType("resource").map(entry => entry.name);
  document.title = JSON.stringify({
    images: [...document.images].map(image => image.naturalWidth),
    requests: names.filter(name => !name.startsWith("data:"))});
});</script>"""


class Page(html.parser.HTMLParser):
  """Collects tags, attributes, text; fails on a tag that is not closed in order."""

  VOID = ("meta", "img", "br")

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.attributes, self.text = [], [], [], []
    self.feed(text)
    assert self.open == []

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    self.attributes += attrs
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text.append(data)

  def of(self, tag):
    return [attributes for name, attributes in self.tags if name == tag]


def samples():
  image = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
  return [
    report.Sample(image, label=0, prediction=0, probability=0.99),
    report.Sample(image[..., 0], label=1, prediction=2, probability=0.4),
  ]


def write(path, names=NAMES, confusion=None):
  report.write_report(
    path,
    title="A <script>alert(1)</script> run",
    highlights={"top-1": "97.5%"},
    summary={"data & more": "</table>"},
    sections=[
      report.learning_curves(CURVES),
      report.confusion_matrix(
        np.diag([5, 6, 7]) if confusion is None else confusion, names
      ),
      report.classified_images("Held-out images", samples(), names),
    ],
    footer="versions",
  )
  return Page(path.read_text(encoding="utf-8"))


def test_page_is_well_formed_and_needs_no_network(tmp_path):
  page = write(tmp_path / "report.html")
  links = [value for name, value in page.attributes if name in ("src", "href")]
  assert len(links) == 5  # three charts, two images
  assert all(link.startswith("data:image/") for link in links)
  assert not page.of("script")
  assert not page.of("link")
  text = (tmp_path / "report.html").read_text()
  assert "url(" not in text
  assert "@import" not in text
  assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def seen_in_browser(path, added=""):
  """Returns what a browser loads for a page with something added at its end."""
  path.write_text(path.read_text().replace("</main>", f"</main>{added}{PROBE}"))
  done = subprocess.run(
    [*BROWSER, f"--user-data-dir={path}.profile", "--dump-dom", path.as_uri()],
    capture_output=True,
    text=True,
    timeout=60,
  )
  return json.loads(re.search("<title>(.*)</title>", done.stdout)[1])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
def test_browser_shows_every_image_and_requests_nothing(tmp_path):
  page = write(tmp_path / "report.html")
  seen = seen_in_browser(tmp_path / "report.html")
  assert len(seen["images"]) == len(page.of("img"))
  assert all(seen["images"])
  assert seen["requests"] == []

  outside = "http://127.0.0.1:9/a.png"  # nobody listens there
  seen = seen_in_browser(tmp_path / "report.html", f'<img src="{outside}">')
  assert seen["images"][-1] == 0
  assert outside in seen["requests"]


def test_names_from_outside_are_shown_as_text(tmp_path):
  page = write(tmp_path / "report.html")
  shown = "".join(page.text)
  assert "A <script>alert(1)</script> run" in shown
  assert "<b>dog</b>" in shown
  assert "</table>" in shown
  assert "Å & co" in shown


def test_images_survive_and_wrong_predictions_are_marked(tmp_path):
  page = write(tmp_path / "report.html")
  assert [figure["class"] for figure in page.of("figure")] == ["correct", "wrong"]
  encoded = page.of("img")[3]["src"].removeprefix("data:image/png;base64,")
  decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
  np.testing.assert_array_equal(decoded, samples()[0].image)


def test_confusion_matrix_shows_labels_by_predictions(tmp_path):
  confusion = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 2]])
  page = write(tmp_path / "report.html", confusion=confusion)
  assert "2 of 6 held-out images are predicted wrongly" in "".join(page.text)
  cells = [text for text in page.text if text.isdigit()]
  assert cells == ["1", "1", "1", "1", "2"]  # row by row, no zeros


def test_many_classes_list_the_pairs_that_are_confused(tmp_path):
  names = [f"class {i}" for i in range(100)]
  confusion = np.diag(np.full(100, 50))
  confusion[7, 93] = 11
  page = write(tmp_path / "report.html", names, confusion)
  assert len(page.of("td")) == 2 + 3 - 1  # one row of the summary, one pair
  assert "class 93" in page.text
  assert "11" in page.text


@pytest.mark.parametrize("chart", plots.CHARTS, ids=lambda chart: chart.title)
def test_charts_are_the_same_bytes_for_the_same_run(chart):
  of_tasks = {name: [(20, 0.5)] for name in ("mean_iou", "AP50", "AP")}
  curves = Curves(train=CURVES.train, validation={**CURVES.validation, **of_tasks})
  assert chart in plots.charts_of(curves)
  assert plots.chart_svg(chart, curves) == plots.chart_svg(chart, curves)


def test_chart_without_points_is_left_out():
  only_loss = Curves(train={"training_loss": [(1, 1.0)]}, validation={})
  assert [chart.title for chart in plots.charts_of(only_loss)] == ["Loss"]


@pytest.mark.filterwarnings("error")
def test_a_value_that_is_zero_throughout_is_drawn():
  zero = Curves(train={"learning_rate": [(1, 0.0)]}, validation={})
  (chart,) = plots.charts_of(zero)
  assert plots.chart_svg(chart, zero)


def test_overview_shows_curves_above_and_every_image_below(tmp_path):
  path = tmp_path / "overview.png"
  plots.save_overview_png(
    path, curves=CURVES, samples=samples() * 7, class_names=["a", "b", "c"], columns=12
  )
  figure = np.asarray(Image.open(path).convert("L"))
  lower = figure[int(figure.shape[0] * 0.6) :]
  assert (lower < 128).any(axis=0).sum() > figure.shape[1] / 2
