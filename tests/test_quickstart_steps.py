"""What the quickstart says when one of its steps fails."""

import pytest

pytestmark = pytest.mark.slow


def test_failed_step_is_shown_with_its_last_lines_and_ends_it(programs, tmp_path):
  done = programs.run(
    "mnv2_hpu.cli.quickstart", f"--output_dir={tmp_path}", "--train_epochs=-1"
  )
  assert done.returncode == 1
  log = tmp_path / "quickstart.log"
  command, message = done.output.split("error: ", 1)
  assert command.splitlines()[-1].startswith("$ python -m official.vision.train")
  assert message.startswith("the step above ended with code 1; its last lines:\n")
  assert "error: a duration of -1.0 epochs was requested" in message
  assert message.endswith(f"All that it printed: {log}\n")
  assert "Traceback" not in done.output
  assert "cli.export" not in log.read_text()
