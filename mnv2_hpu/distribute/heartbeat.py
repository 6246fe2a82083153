"""Signs of life between ranks, beside the collectives: who is gone, and since when.

Each rank keeps a TCP connection to rank 0 and sends a line a second; rank 0 answers
with the last step that all have reached. A rank whose process ends closes its
connection, and is noticed at once; one that is frozen, or whose machine is gone, falls
silent. Rank 0 tells the others whom it misses; they miss rank 0 themselves. A rank that
ends with an error says so first: ranks that meet the same one end with their own, and
the others with its message. Threads of Python do all this: they go on while TensorFlow
waits in a collective.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

_BEAT_SECONDS = 1.0
# For a rank to meet the error that another one has told it of.
_SAME_ERROR_SECONDS = 5.0
_MAX_MESSAGE = 1000  # characters of an error


class Heartbeat:
  """The connections of one rank. Rank 0 calls `listen`, the others `connect`.

  Args:
    rank: of this process.
    size: number of ranks.
    silence_seconds: after so long without a line a rank is missing.
    on_missing: called once, in a thread, with a sentence that names the missing rank
      and the last common step.
  """

  def __init__(
    self,
    rank: int,
    size: int,
    silence_seconds: float,
    on_missing: Callable[[str], None],
  ) -> None:
    self._rank = rank
    self._silence = silence_seconds
    self._on_missing = on_missing
    self._lock = threading.Lock()
    self._connections: dict[int, socket.socket] = {}
    self._names = {other: f"rank {other}" for other in range(size)}
    self._steps = dict.fromkeys(range(size), 0)
    self._common = 0
    self._has_ended = False
    self._left: set[int] = set()

  def listen(self, key: int) -> int:
    """Accepts the other ranks' connections, in a thread; returns the port.

    Args:
      key: what a connection must present; known to the ranks alone.
    """
    server = socket.create_server(("", 0))
    self._start(self._accept, server, key)
    self._start(self._beat)
    return int(server.getsockname()[1])

  def connect(self, host: str, port: int, key: int, timeout: float = 10.0) -> None:
    """Connects to rank 0.

    Raises:
      OSError: if it cannot be reached.
    """
    connection = socket.create_connection((host, port), timeout)
    name = f"rank {self._rank} (process {os.getpid()} on {socket.gethostname()})"
    _send(connection, {"key": key, "rank": self._rank, "name": name})
    self._connections[0] = connection
    self._start(self._listen_to, 0, connection, _lines(connection))
    self._start(self._beat)

  def record_step(self, step: int) -> None:
    """Notes the step that this rank has finished; sent with the next line."""
    self._steps[self._rank] = step

  def stop(self) -> None:
    """Tells the others that this rank ends as it should."""
    self._send_final({"final": True})

  def fail(self, message: str) -> None:
    """Tells the others, once, that this rank ends with an error."""
    self._send_final({"failed": message[:_MAX_MESSAGE]})

  def _send_final(self, last_line: dict[str, Any]) -> None:
    with self._lock:
      if self._has_ended:
        return
      self._has_ended = True
    self._tell(last_line)

  def _start(self, target: Callable[..., None], *args: Any) -> None:
    threading.Thread(target=target, args=args, daemon=True).start()

  def _accept(self, server: socket.socket, key: int) -> None:
    while True:
      connection, _ = server.accept()
      connection.settimeout(self._silence)
      lines = _lines(connection)
      hello = next(lines, {})
      if hello.get("key") != key:
        connection.close()
        continue
      with self._lock:
        self._connections[hello["rank"]] = connection
        self._names[hello["rank"]] = hello["name"]
      self._start(self._listen_to, hello["rank"], connection, lines)

  def _listen_to(
    self, other: int, connection: socket.socket, lines: Iterator[dict[str, Any]]
  ) -> None:
    connection.settimeout(self._silence)
    try:
      for line in lines:
        if "final" in line:
          self._left.add(other)
          return
        if "missing" in line:
          self._end(line["missing"])
          return
        if "failed" in line:
          how = f"it ended with an error: {line['failed']}"
          time.sleep(_SAME_ERROR_SECONDS)
          break
        self._steps[other] = line["step"]
        self._common = max(self._common, line.get("common", 0))
      else:
        how = "its process has ended"
    except TimeoutError:
      how = f"no sign of life for {self._silence:g} seconds"
    except OSError as error:
      how = f"the connection broke: {error}"
    self._end(
      f"{self._names[other]} is missing ({how}). The last step that all ranks are "
      f"known to have finished is {self._common}."  # told once a second
    )

  def _beat(self) -> None:
    pause = threading.Event()
    while not pause.wait(_BEAT_SECONDS) and not self._has_ended:
      if self._rank == 0:
        self._common = min(self._steps.values())
      self._tell({"step": self._steps[self._rank], "common": self._common})

  def _tell(self, line: dict[str, Any]) -> None:
    with self._lock:
      for other, connection in self._connections.items():
        if other in self._left:
          continue
        try:
          _send(connection, line)
        except OSError:
          continue  # the thread that listens to it says so

  def _end(self, message: str) -> None:
    with self._lock:
      if self._has_ended:
        return
      self._has_ended = True
    if self._rank == 0:
      self._tell({"missing": message})
    self._on_missing(message)


def _send(connection: socket.socket, line: dict[str, Any]) -> None:
  connection.sendall(json.dumps(line).encode() + b"\n")


def _lines(connection: socket.socket) -> Iterator[dict[str, Any]]:
  """Yields what arrives, until the other end closes."""
  rest = b""
  while content := connection.recv(4096):
    *whole, rest = (rest + content).split(b"\n")
    yield from map(json.loads, whole)
