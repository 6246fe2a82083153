"""Addresses of the data service. Imports no TensorFlow."""

import re
import socket
import time
from typing import NamedTuple

from mnv2_hpu.errors import UserError

DEFAULT_PORT = 5050
PROTOCOL = "grpc"  # the one that TensorFlow has outside of Google

_FORM = re.compile(
  rf"(?:{PROTOCOL}://)?(?P<host>[\w.-]+|\[[0-9a-fA-F:.]+\]):(?P<port>\d+)"
)
_RETRY_SECONDS = 0.5


class Address(NamedTuple):
  """Where a dispatcher listens.

  Attributes:
    host: Name or number of its machine; one of IPv6 in brackets.
    port: Its port.
  """

  host: str
  port: int

  def __str__(self) -> str:
    """Returns `host:port`."""
    return f"{self.host}:{self.port}"

  @property
  def target(self) -> str:
    """The form that TensorFlow's client takes."""
    return f"{PROTOCOL}://{self}"


def parse(text: str, name: str) -> Address:
  """Returns the address of a dispatcher.

  Args:
    text: `grpc://host:port` or `host:port`.
    name: Flag or field that it was given as, for the message.

  Raises:
    UserError: If it has another form.

  >>> parse("grpc://loader-0:5050", "service_address").target
  'grpc://loader-0:5050'
  >>> str(parse("10.0.0.7:5050", "service_address"))
  '10.0.0.7:5050'
  """
  match = _FORM.fullmatch(text)
  if match is None or not 0 < int(match["port"]) < 2**16:
    raise UserError(
      f"{name} is {text!r}, which is no address of a data service. Give the host and "
      f"the port of its dispatcher, as in grpc://localhost:{DEFAULT_PORT}."
    )
  return Address(match["host"], int(match["port"]))


def own_host_seen_from(dispatcher: Address, timeout: float) -> str:
  """Waits until a dispatcher listens; returns this host's address on the way there.

  Args:
    dispatcher: Address of the dispatcher.
    timeout: Seconds to wait for it.

  Raises:
    UserError: If nobody listens there after that time.
  """
  deadline = time.monotonic() + timeout
  while True:
    left = deadline - time.monotonic()
    try:
      with socket.create_connection(
        (dispatcher.host.strip("[]"), dispatcher.port), max(left, _RETRY_SECONDS)
      ) as connection:
        host = connection.getsockname()[0]
        return f"[{host}]" if ":" in host else host
    except OSError as error:
      if left < _RETRY_SECONDS:
        raise UserError(
          f"no dispatcher of a data service answers at {dispatcher.target} "
          f"({error.strerror or error}; waited {timeout:g} seconds). Start one there: "
          f"mnv2-data-service dispatcher --port={dispatcher.port}"
        ) from error
    time.sleep(_RETRY_SECONDS)
