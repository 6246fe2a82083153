"""Starts trainings of several processes: one job a line, all from one warm process.

  python tests/helpers_rank_runs.py FOLDER STRATEGY:RANKS:CASE,CASE…  …

Each job runs its cases (`helpers_rank_cases.CASES`) one after another in the same
processes, forked from this one after all imports. To FOLDER/STRATEGY-RANKS goes what
each rank held (`CASE.RANK.npz`) and said (`RANK.log`).
"""

import atexit
import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import helpers_hpu_stand_in

from mnv2_hpu import cluster

ROOT = pathlib.Path(__file__).resolve().parents[1]
SECONDS = 900  # until a rank of a job is ended: five times what it takes when idle
HAS_HOROVOD = importlib.util.find_spec("horovod") is not None
HAS_BRIDGE = importlib.util.find_spec("habana_frameworks") is not None


def start(folder, jobs):
  """Runs the cases of each job; those of another one go on where one fails.

  Args:
    folder: where all go.
    jobs: `{"STRATEGY-RANKS": cases}`.

  Returns:
    What went wrong in the jobs that failed, by job.
  """
  arguments = [f"{job.replace('-', ':')}:{','.join(jobs[job])}" for job in jobs]
  done = subprocess.run(
    [sys.executable, __file__, str(folder), *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  problems = {}
  for job in jobs:
    codes = re.search(rf"^{job} exit codes (.*)$", done.stdout, re.MULTILINE)
    if codes and not any(json.loads(codes[1])):
      continue
    logs = [f"{log}:\n{log.read_text()[-3000:]}" for log in folder.glob(f"{job}/*.log")]
    problems[job] = "\n".join(
      [f"{job}: {codes and codes[0]}", done.stderr[-3000:], *logs]
    )
  return problems


def _tf_config(ranks):
  workers = [f"localhost:{port}" for port in cluster.free_ports(ranks)]
  return [
    {
      "TF_CONFIG": json.dumps(
        {"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}}
      )
    }
    for rank in range(ranks)
  ]


def _gloo(ranks):
  """What horovodrun sets: this process is the server at which ranks find each other."""
  from horovod.runner.common.util import hosts
  from horovod.runner.http.http_server import RendezvousServer

  server = RendezvousServer()
  port = server.start()
  server.init(hosts.get_host_assignments([hosts.HostInfo("localhost", ranks)], ranks))
  common = {
    "HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1",
    "HOROVOD_GLOO_RENDEZVOUS_PORT": port,
    "HOROVOD_GLOO_IFACE": "lo",
    "HOROVOD_CONTROLLER": "gloo",
    "HOROVOD_CPU_OPERATIONS": "gloo",
    "HOROVOD_HOSTNAME": "localhost",
    "HOROVOD_SIZE": ranks,
    "HOROVOD_LOCAL_SIZE": ranks,
    "HOROVOD_CROSS_RANK": 0,
    "HOROVOD_CROSS_SIZE": 1,
  }
  return [
    {**common, "HOROVOD_RANK": rank, "HOROVOD_LOCAL_RANK": rank}
    for rank in range(ranks)
  ]


def _environments(strategy, ranks):
  if ranks == 1:
    return [{}]
  if strategy == "horovod":
    return _gloo(ranks)
  return _tf_config(ranks)


def _be_rank(environment, log, arguments):
  """Runs the cases in this process, which ends with them."""
  descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
  os.dup2(descriptor, 1)
  os.dup2(descriptor, 2)
  signal.alarm(SECONDS)
  os.environ.update({name: str(value) for name, value in environment.items()})
  code = 1
  try:
    import helpers_rank_cases

    helpers_rank_cases.main(*arguments)
    code = 0
  except BaseException:
    sys.excepthook(*sys.exc_info())
  atexit._run_exitfuncs()  # as where a process ends by itself: ranks take leave
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def _be_job(strategy, ranks, cases, folder):
  """Starts the ranks of a job, waits for them, and says how they ended."""
  if strategy == "hpu":
    helpers_hpu_stand_in.install()
  folder.mkdir()
  children = []
  for rank, environment in enumerate(_environments(strategy, ranks)):
    child = os.fork()
    if child == 0:
      _be_rank(environment, folder / f"{rank}.log", (strategy, folder, cases))
    children.append(child)
  codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
  print(f"{strategy}-{ranks} exit codes {codes}", flush=True)


def main():
  """Runs the jobs that the command line names, one after another."""
  import helpers_rank_cases  # noqa: F401  imports all that a job needs

  folder = pathlib.Path(sys.argv[1])
  for job in sys.argv[2:]:
    strategy, ranks, cases = job.split(":")
    leader = os.fork()  # what it imports and starts, the next job does not have
    if leader == 0:
      name = f"{strategy}-{ranks}"
      _be_job(strategy, int(ranks), cases.split(","), folder / name)
      os._exit(0)
    os.waitpid(leader, 0)


if __name__ == "__main__":
  main()
