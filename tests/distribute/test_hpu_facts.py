"""docs/hpu.md says what the code decided and what no card has confirmed."""

import pytest

from mnv2_hpu.distribute import hpu_facts

pytestmark = pytest.mark.checkout


@pytest.fixture
def sections(checkout):
  """Title -> lines of each section of docs/hpu.md."""
  parts = (checkout / "docs" / "hpu.md").read_text().split("\n## ")
  return {part.partition("\n")[0]: part.splitlines() for part in parts}


def test_the_page_lists_what_no_card_has_confirmed(sections):
  items = [line for line in sections["What no card has confirmed"] if line[:1] == "-"]

  assert items == [f"- {what}" for what in hpu_facts.UNCONFIRMED]


def test_the_page_holds_every_decision_with_its_reason(sections):
  rows = [line for line in sections["What was decided"] if line[:1] == "|"]

  assert rows[2:] == [f"| {' | '.join(row)} |" for row in hpu_facts.DECISIONS]
  assert len(rows[2:]) >= 10


def test_the_page_names_the_versions_that_fit(sections):
  assert hpu_facts.FITS in " ".join(sections["# Gaudi (HPU)"])
