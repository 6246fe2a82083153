"""Horovod's strategy in two real processes, against values computed by hand."""

import pathlib

import helpers_horovod_rank as program
import helpers_mpirun
import numpy as np
import pytest
import tensorflow as tf

pytestmark = [pytest.mark.slow, helpers_mpirun.needs_horovod]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
  """What each of two ranks found."""
  folder = tmp_path_factory.mktemp("ranks")
  arguments = [pathlib.Path(program.__file__), folder]
  code, output = helpers_mpirun.run([arguments] * 2)
  assert code == 0, output[-3000:]
  return [dict(np.load(folder / f"{rank}.npz")) for rank in range(2)]


@pytest.fixture(params=(0, 1), ids=("rank0", "rank1"))
def found(request, ranks):
  return ranks[request.param]


@pytest.mark.parametrize("kind", ["reduce", "eager", "compiled"])
@pytest.mark.parametrize("dtype", [*program.INTEGERS, *program.FLOATS])
def test_sums_of_every_type(found, kind, dtype):
  np.testing.assert_array_equal(found[f"{kind} {dtype}"], [3, 6])


@pytest.mark.parametrize("dtype", [*program.INTEGERS, *program.FLOATS])
def test_means_and_gathers_of_every_type(found, dtype):
  np.testing.assert_array_equal(found[f"mean {dtype}"], [1.5, 3])
  np.testing.assert_array_equal(found[f"gather {dtype}"], [1, 3, 2, 3])


@pytest.mark.parametrize("bucket_bytes", [1, 40, 1 << 20])
@pytest.mark.parametrize(
  ("compression", "narrow"),
  [("none", np.float32), ("fp16", np.float16), ("bf16", tf.bfloat16.as_numpy_dtype)],
)
def test_bucketed_gradients(found, compression, narrow, bucket_bytes):
  pairs = zip(program.gradients(0), program.gradients(1), strict=True)
  for index, (first, second) in enumerate(pairs):
    narrowed = [value.astype(narrow).astype(np.float32) for value in (first, second)]
    expected = np.add(*narrowed).astype(narrow).astype(np.float32)
    result = found[f"bucket {compression} {bucket_bytes} {index}"]
    assert result.shape == first.shape
    np.testing.assert_array_equal(result, expected)


def test_gather_joins_what_ranks_have_in_different_lengths(found):
  np.testing.assert_array_equal(found["gather columns"], [[1, 2, 2], [1, 2, 2]])


def test_sparse_gradients_are_averaged(found):
  np.testing.assert_array_equal(found["sparse"], [[1, 1], [1.5, 1.5], [0, 0]])


def test_variables_and_slots_start_as_rank_0_drew_them(ranks):
  drawn = np.array([np.nan, -0.0, np.inf, 0], np.float32)  # the last is the rank
  for found in ranks:
    assert found["weights"].tobytes() == drawn.tobytes()
    assert found["flag"]
  for name in ("half", "kernel", "slot"):
    assert ranks[0][name].tobytes() == ranks[1][name].tobytes()
    assert np.ptp(ranks[0][name]) > 0


def test_a_step_is_that_of_the_whole_batch(found):
  images = np.concatenate([program.batch(0), program.batch(1)])
  normal = (images - images.mean(0)) / np.sqrt(images.var(0) + 1e-3)
  # of sum((gamma x + beta)^3) / 4 at gamma 1, beta 0
  of_gamma, of_beta = (3 * normal**3).sum(0) / 4, (3 * normal**2).sum(0) / 4
  rate = program.LEARNING_RATE
  np.testing.assert_allclose(found["gamma"], 1 - rate * of_gamma, atol=1e-6)
  np.testing.assert_allclose(found["beta"], -rate * of_beta, atol=1e-6)
  np.testing.assert_allclose(found["moving mean"], images.mean(0) / 2, rtol=1e-6)
  np.testing.assert_allclose(found["metric"], images.mean(), rtol=1e-6)


def test_ranks_are_bitwise_equal_after_the_step(ranks):
  for name in ("gamma", "beta", "moving mean", "metric"):
    assert ranks[0][name].tobytes() == ranks[1][name].tobytes()


def test_each_rank_reads_its_share(ranks):
  assert ranks[0]["input"].tolist() == [0, 2, 4, 6]
  assert ranks[1]["input"].tolist() == [1, 3, 5, 7]
  together = np.concatenate([found["rebatched"] for found in ranks])
  assert sorted(together) == list(range(8))
  assert [len(found["rebatched"]) for found in ranks] == [4, 4]


def test_ranks_hold_the_same_and_rank_0_writes(ranks):
  assert [int(found["replicas"]) for found in ranks] == [2, 2]
  assert [bool(found["writes"]) for found in ranks] == [True, False]
