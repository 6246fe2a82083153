"""Several processes that are one training, shown with real processes."""

import helpers_rank_cases
import helpers_rank_runs
import numpy as np
import pytest

STEPS = helpers_rank_cases.STEPS

pytestmark = [
  pytest.mark.slow,
  pytest.mark.long(
    "the first test runs the jobs of all: 40 trainings of several ranks"
  ),
]

JOBS = {
  # Two replicas in one process, by TensorFlow's own strategy: what ranks are held to.
  "mirrored-1": ("sync_bn", "plain_bn", "bfloat16", "no_average"),
  "one_device-1": ("float64", "detection", "segmentation"),
  "multi_worker_mirrored-2": (
    "sync_bn",
    "plain_bn",
    "bfloat16",
    "no_average",
    "float64",
    "seeds_differ",
    "seeds_healed",
    "spoiled",
    "resynced",
    "half",
    "rest",
    "evaluated",
    "detection",
    "segmentation",
    "collectives",
    "sent",
  ),
  "multi_worker_mirrored-3": ("sync_bn", "float64"),
  "horovod-4": ("sync_bn", "float64"),
  "horovod-2": (
    "sync_bn",
    "plain_bn",
    "bfloat16",
    "float64",
    "seeds_differ",
    "detection",
    "segmentation",
    "collectives",
    "sent",
    "sent_bf16",
    "sent_fp16",
    "sent_in_buckets",
  ),
  "hpu-2": (
    "sync_bn",
    "plain_bn",
    "bfloat16",
    "float64",
    "seeds_differ",
    "collectives",
    "sent",
  ),
}
AVAILABLE = {
  "horovod": helpers_rank_runs.HAS_HOROVOD,
  "hpu": helpers_rank_runs.HAS_BRIDGE,
}
SEVERAL = [job for job in JOBS if job.endswith("-2")]
MORE = [job for job in JOBS if job[-1] in "34"]


def _is_available(job):
  return AVAILABLE.get(job.split("-")[0], True)


class Runs:
  """What the jobs left; a job that failed fails the tests that ask for it."""

  def __init__(self, folder):
    self._folder = folder
    jobs = {job: cases for job, cases in JOBS.items() if _is_available(job)}
    self._problems = helpers_rank_runs.start(folder, jobs)

  def of(self, job):
    """The folder of a job."""
    if job in self._problems:
      pytest.fail(self._problems[job], pytrace=False)
    return self._folder / job


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """Runs all jobs, once for all tests."""
  return Runs(tmp_path_factory.mktemp("ranks"))


def _available(job):
  if not _is_available(job):
    pytest.skip(f"{job.split('-')[0]} is not installed here")
  return job


@pytest.fixture(params=SEVERAL)
def job(request):
  return _available(request.param)


@pytest.fixture(params=MORE)
def larger_job(request):
  return _available(request.param)


class Held:
  """What one process held at the end of a case.

  Attributes:
    losses: by step.
    error: what ended it, empty where nothing did.
    variables: by replica of the process: (name, value) in order.
  """

  def __init__(self, runs, job, case, rank=0):
    with np.load(runs.of(job) / f"{case}.{rank}.npz") as stored:
      content = dict(stored)
    self.losses = content.pop("losses")
    self.error = str(content.pop("error"))
    self.variables = {}
    for key, value in content.items():
      _, name, replica = key.split("|")
      if "checkpointed_runs" not in name:  # TensorFlow's preemption handler counts them
        self.variables.setdefault(int(replica), []).append((name, value))

  def assert_bitwise(self, other, replica=0, of_other=0):
    assert self.losses.tobytes() == other.losses.tobytes()
    own, others = self.variables[replica], other.variables[of_other]
    assert [name for name, _ in own] == [name for name, _ in others]
    assert not [
      name
      for (name, a), (_, b) in zip(own, others, strict=True)
      if a.tobytes() != b.tobytes()
    ]


@pytest.mark.parametrize("case", ["sync_bn", "plain_bn", "bfloat16"])
def test_two_ranks_are_two_replicas_of_one_process_bit_by_bit(runs, job, case):
  expected = Held(runs, "mirrored-1", case)
  assert len(expected.losses) == STEPS
  assert np.ptp(expected.losses) > 0.01  # it does learn something
  names = " ".join(name for name, _ in expected.variables[0])
  assert "average" in names
  assert "momentum" in names
  for rank in range(2):
    Held(runs, job, case, rank).assert_bitwise(expected, of_other=rank)


def test_two_ranks_without_averages_are_two_replicas_bit_by_bit(runs):
  expected = Held(runs, "mirrored-1", "no_average")
  assert not any("average" in name for name, _ in expected.variables[0])
  for rank in range(2):
    held = Held(runs, "multi_worker_mirrored-2", "no_average", rank)
    held.assert_bitwise(expected, of_other=rank)


def _assert_equal_ranks(runs, job, case):
  """Returns what rank 0 held, which is what all held."""
  first, *others = (Held(runs, job, case, rank) for rank in range(int(job[-1])))
  assert len(first.losses) == STEPS
  for other in others:
    first.assert_bitwise(other)
  return first


def _assert_computes_what_one_replica_does(runs, job):
  expected = Held(runs, "one_device-1", "float64")
  actual = _assert_equal_ranks(runs, job, "float64")
  np.testing.assert_allclose(actual.losses, expected.losses, rtol=0, atol=1e-9)
  for (name, a), (_, b) in zip(actual.variables[0], expected.variables[0], strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-7, err_msg=name)


def test_three_and_four_ranks_hold_the_same(runs, larger_job):
  _assert_equal_ranks(runs, larger_job, "sync_bn")


def test_three_and_four_ranks_compute_what_one_replica_does(runs, larger_job):
  _assert_computes_what_one_replica_does(runs, larger_job)


def test_two_ranks_compute_what_one_replica_does(runs, job):
  _assert_computes_what_one_replica_does(runs, job)


def test_ranks_that_start_from_other_weights_are_stopped_before_step_1(runs, job):
  """The seed's bug: the broadcast is built and never run."""
  for rank in range(2):
    held = Held(runs, job, "seeds_differ", rank)
    assert len(held.losses) == 0
    assert "at step 0, rank 1 and rank 0 differ" in held.error
    assert "conv2d" in held.error
    assert "shape [3, 3, 3, 6], 162 values" in held.error


def test_ranks_that_draw_other_weights_start_from_rank_0s(runs):
  healed = [
    Held(runs, "multi_worker_mirrored-2", "seeds_healed", rank) for rank in range(2)
  ]
  assert not healed[0].error
  healed[0].assert_bitwise(healed[1])


def test_a_weight_that_changes_on_one_rank_ends_the_run_before_the_checkpoint(runs):
  """Rank 1 changes a kernel after step 3; a checkpoint is due at step 5."""
  for rank in range(2):
    held = Held(runs, "multi_worker_mirrored-2", "spoiled", rank)
    assert len(held.losses) == 4  # the fifth loop ends with the check
    assert "at step 5, rank 1 and rank 0 differ" in held.error
  model_dir = runs.of("multi_worker_mirrored-2") / "spoiled.0"
  steps = {path.stem for path in model_dir.glob("ckpt-*.index")}
  assert "ckpt-5" not in steps


def test_resync_interval_repairs_and_reports(runs):
  job = "multi_worker_mirrored-2"
  first, second = (Held(runs, job, "resynced", rank) for rank in range(2))
  assert not first.error
  assert len(first.losses) == 6
  first.assert_bitwise(second)
  assert "drifted apart at step 5" in (runs.of(job) / "0.log").read_text()


def test_a_resumed_run_is_the_uninterrupted_one_bit_by_bit(runs):
  """Half of the steps, then the rest from rank 0's checkpoint; statistics by rank."""
  job = "multi_worker_mirrored-2"
  for rank in range(2):
    resumed = Held(runs, job, "rest", rank)
    whole = Held(runs, job, "plain_bn", rank)
    assert resumed.losses.tobytes() == whole.losses[STEPS // 2 :].tobytes()
    resumed.losses = whole.losses
    resumed.assert_bitwise(whole)


def test_evaluation_starts_from_rank_0s_checkpoint(runs):
  """Rank 1's folder holds none, which ends TensorFlow's own strategy in a deadlock."""
  job = "multi_worker_mirrored-2"
  first, second = (Held(runs, job, "evaluated", rank) for rank in range(2))
  assert dict(first.variables[0])["global_step:0"] == STEPS
  first.assert_bitwise(second)


@pytest.mark.parametrize("case", ["detection", "segmentation"])
@pytest.mark.parametrize("several", ["multi_worker_mirrored-2", "horovod-2"])
def test_ranks_are_one_replica_however_labels_are_spread(runs, several, case):
  """Rank 0 has fewer boxes, or pixels that count, than rank 1: all divide by all."""
  alone = Held(runs, "one_device-1", case)
  for rank in range(2):
    held = Held(runs, _available(several), case, rank)
    np.testing.assert_allclose(held.losses, alone.losses, rtol=1e-6)


def test_ranks_gather_values_bit_by_bit(runs, job):
  for rank in range(2):
    with np.load(runs.of(job) / f"collectives.{rank}.npz") as stored:
      got = dict(stored)
    assert (got["rank"], got["size"], got["of_rank_0"]) == (rank, 2, 5)
    assert got["gathered"].tolist() == [[[0, 2**40]], [[1, 2**40 + 1]]]
    assert got["total"].tolist() == [-2, 2**41 + 1]
    for name, value in helpers_rank_cases.SENT.items():
      assert got[name].tobytes() == value.tobytes(), name
    assert got["statistics"].tolist() == [1.0]  # rank 0's, not the mean
    expected = "rank 1 cannot start; this rank (0) ends with it. Its message says why."
    assert str(got["failure"]) == ("only rank 1 sees this" if rank else expected)


def _sent(runs, job, case, rank):
  """(bytes sent, convolutions waited for, bytes of the gradients)."""
  with np.load(runs.of(job) / f"{case}.{rank}.npz") as stored:
    return stored["sent"], stored["convolutions"], float(stored["gradients"])


def _ring(gradients, ranks):
  """Bytes that a rank sends at least, for all to have the sum."""
  return 2 * (ranks - 1) / ranks * gradients


def test_a_step_sends_the_gradients_at_once_and_little_else(runs, job):
  for rank in range(2):
    sent, convolutions, gradients = _sent(runs, job, "sent", rank)
    ring = _ring(gradients, 2)
    assert len(sent) == 1
    assert ring <= sent[0] <= 1.05 * ring
    assert convolutions == [2]  # it waits for the whole backward pass


@pytest.mark.parametrize("case", ["sent_bf16", "sent_fp16"])
def test_compressed_a_step_sends_half_of_it(runs, case):
  for rank in range(2):
    sent, _, gradients = _sent(runs, _available("horovod-2"), case, rank)
    half = _ring(gradients, 2) / 2
    assert half <= sum(sent) <= 1.05 * half


def test_smaller_buckets_do_not_wait_for_the_whole_backward_pass(runs):
  """What the last layer sends depends on no gradient of a convolution."""
  for rank in range(2):
    sent, convolutions, gradients = _sent(
      runs, _available("horovod-2"), "sent_in_buckets", rank
    )
    assert sum(sent) <= 1.05 * _ring(gradients, 2)
    assert len(sent) > 1
    assert convolutions[0] == 0


def test_every_case_is_run():
  run = {case for cases in JOBS.values() for case in cases}
  assert run == {*helpers_rank_cases.CASES, *helpers_rank_cases.OTHERS}
