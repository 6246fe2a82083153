"""Finds private words where the field has its own, in code, documents and file names.

usage: python tools/check_words.py

Prints `file:line: "found": what to write`, and exits with 1 where it found something. A
new row of `WORDS` is a word that no paper and no page of
TensorFlow, orbit or Model Garden uses for the thing. English senses of a word that
cannot be distinguished by its neighbors belong in `ALLOWED`, with the reason.
"""

import ast
import fnmatch
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TEXT_SUFFIXES = {"", ".cfg", ".gin", ".in", ".md", ".py", ".sh", ".toml", ".yaml"}
SKIPPED = (
  "CHANGELOG.md",  # names what was renamed
  "LICENSE",
  "requirements/*.txt",
  "mnv2_hpu/deprecations.py",  # names what was renamed
  "tests/test_house_rules.py",  # tests this program
  "tools/check_words.py",
)

# (what is found in any case, separated by commas; what to write). Neither letter nor
# digit may stand before or behind: `garden` is found in `_garden`. `*` is any part of a
# word, and a space any white space, so that a phrase may go on in the next line.
WORDS = (
  ("gives up the iterator, give up the iterator, gives up an", "destroys the iterator"),
  ("averaged weights, averaged weight, averaged_weights", "EMA weights"),
  ("reset_averages, _add_average", "shadow variables"),
  ("exchange, exchanges, exchanged, exchanging", "swap"),
  ("pictur*", "image; figure for a plot"),
  ("both ways, ways to save", "methods; in both dimensions"),
  ("seed_flag*, seed's flag*, seed's launcher", "legacy slim flags, slim_flags"),
  ("card, cards", "device, accelerator"),
  ("garden, garden's", "Model Garden, upstream, model_garden"),
  ("aside", "to a temporary file, then renamed; quarantine; tmp_path"),
  ("damag*", "corruption, corrupt; find_corruption"),
  ("use_last_good", "quarantine_corrupt"),
  ("_note, note_*, a note, the note", "metadata"),
  ("least_*, *_least, greatest, greatest_*, most_*, (most=, some_of", "min, max"),
  ("in_parts, after_part, _growth", "chunks, run_in_chunks, on_chunk_end"),
  ("asked to end, ends as it should", "preempted, stop requested; clean exit"),
  ("ending_well, save_and_end", "report_errors_to_peers, checkpoint_and_exit"),
  ("owed, is_owed, missed_evaluation*, make_up, makes up", "pending, run_pending"),
  ("take_over_restored, takes over the restored", "sync the restored state"),
  ("one_model, onemodel", "variable_sync, VariableSync"),
  ("before_steps, after_steps", "broadcast_if_restored, sync_and_check"),
  ("ranks other than 0, quiet rank*", "non-chief ranks"),
  ("take_own_folder, rank_folder*", "redirect_non_chief, worker_dirs"),
  ("scratch", "temporary directory"),
  ("sign of life, signs of life, take_leave, takes leave, bye", "heartbeat"),
  ("await_verdict, telling_errors", "wait_for_diagnosis, broadcast_errors"),
  ("sound, sound_*, left the numbers", "finite, non-finite"),
  ("its share, own share, their share", "shard"),
  ("endless*, made ahead", "infinite, repeated; prefetched"),
  ("stands in for, stand in for", "replaces"),
  ("unreadable_record*, unreadable record*", "corrupt record"),
  ("records_before, passed over, passes over", "num_consumed; skipped"),
  ("derive_seed", "fold_in(seed, *tags)"),
  ("_moved_as, _summed_as", "_TRANSPORT_DTYPE, _SUM_DTYPE"),
  ("travel, travels, travelled", "is sent"),
  ("meet_without_mpi", "gloo rendezvous"),
  ("depend_on_step, at_step", "make_dropout_stateless, dropout_step"),
  ("block_plan", "block_specs, build_specs, BlockSpec"),
  ("recolour*, recolor*, to_model_range", "color-jittered, to_minus_one_one"),
  ("anew", "again, re-encoded"),
  ("mend, mends, mended", "fix"),
  ("told from, told apart", "inferred from, distinguished"),
  ("asked for, asks for", "requested"),
  ("stretch, stretches", "byte range"),
  ("strays", "unexpected files"),
  ("sum_up, adopt_plan", "summarize, start_or_resume"),
  ("chatter, chatter_*", "stderr output"),
  ("cli.process, cli/process", "tf_environment"),
)

# Of docstrings: the first line, and each entry of Args and Attributes.
FIRST_LINE = re.compile(r"(?:Says|Tells|Has (?:this|the|its|all|every))\b")
ENTRY = re.compile(
  r" +\*{0,2}\w+(?: \([^)]*\))?: (?:of|its|likewise|whose|which|that)\b"
)
SECTION = re.compile(r" *(Args|Attributes|Arguments):$")


# `CHANNELS = 32  # of the first convolution`
COMMENT = re.compile(r"(?<=\S)  # (?:of|its|likewise)\b.*")
NOUN_PHRASE = "a noun phrase that stands alone"


class Allowed(NamedTuple):
  """A use that stays.

  Attributes:
    path: Pattern of the file's path.
    phrase: Regular expression, in lower case, of the phrase that is passed by.
    reason: Why it is right there.
  """

  path: str
  phrase: str
  reason: str


ALLOWED = (
  Allowed("*", r"model(?:[_-]|\s+)garden(?:'s)?", "the library's name"),
  Allowed("*", r"from\s+scratch", "training without a checkpoint"),
  Allowed("*", r"most_common", "collections.Counter's"),
  Allowed("tests/*", r"max_unreadable_records|cards/one_card", "old names, tested"),
)


class Finding(NamedTuple):
  """A word to change: its line, the word, and what to write."""

  line: int
  found: str
  write: str


def _word_pattern(word: str) -> re.Pattern[str]:
  pattern = re.escape(word).replace(r"\ ", r"[\s#]+").replace(r"\*", "[a-z0-9_]*")
  return re.compile(rf"(?<![a-z0-9]){pattern}(?![a-z0-9])")


# A literal part of each word, which is looked for first: that is fast.
PATTERNS = [
  (max(re.split(r"[ *]", word), key=len), _word_pattern(word), write)
  for words, write in WORDS
  for word in words.split(", ")
]


def _paths() -> list[str]:
  """Returns the paths of the text files of the repository."""
  listed = subprocess.run(
    ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  return [
    path
    for path in listed.stdout.split("\0")
    if path and Path(path).suffix in TEXT_SUFFIXES and (ROOT / path).is_file()
    if not any(fnmatch.fnmatch(path, skipped) for skipped in SKIPPED)
  ]


def _dots(found: re.Match[str]) -> str:
  return re.sub(r"\S", ".", found[0])  # lines stay lines


def check_words(path: str, text: str) -> Iterator[Finding]:
  """Yields the private words of a text."""
  text = text.lower()
  for allowed in ALLOWED:
    if fnmatch.fnmatch(path, allowed.path):
      text = re.sub(allowed.phrase, _dots, text)
  for literal, pattern, write in PATTERNS:
    if literal in text:
      for match in pattern.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        yield Finding(line, " ".join(match[0].split()), write)


def check_docstrings(source: str) -> Iterator[Finding]:
  """Yields first lines and entries of docstrings that are not in the field's form."""
  for node in ast.walk(ast.parse(source)):
    if not isinstance(node, ast.ClassDef | ast.FunctionDef):
      continue
    docstring = ast.get_docstring(node, clean=False)
    if not docstring:
      continue
    first = node.body[0].lineno
    if FIRST_LINE.match(docstring):
      yield Finding(first, docstring.split(".")[0], "the act: Records, Returns")
    inside = False
    for number, line in enumerate(docstring.splitlines(), first):
      inside = bool(SECTION.match(line)) or (inside and bool(line.strip()))
      if inside and ENTRY.match(line):
        yield Finding(number, line.strip(), NOUN_PHRASE)
  for number, line in enumerate(source.splitlines(), 1):
    if comment := COMMENT.search(line):
      yield Finding(number, comment[0].strip(), NOUN_PHRASE)


def main() -> int:
  """Prints what was found; returns the exit code."""
  count = 0
  for path in _paths():
    text = (ROOT / path).read_text(errors="replace")
    findings = [finding._replace(line=1) for finding in check_words(path, path)]
    findings += check_words(path, text)
    if path.endswith(".py"):
      findings += check_docstrings(text)
    for line, found, write in sorted(findings):
      print(f'{path}:{line}: "{found}": {write}')
    count += len(findings)
  print(f"check_words: {count} to change" if count else "check_words: clean")
  return int(count > 0)


if __name__ == "__main__":
  sys.exit(main())
