"""Addresses of a data service, and what is said where nobody answers."""

import socket

import pytest

from mnv2_hpu import cluster
from mnv2_hpu.configs.image_classification import DataConfig
from mnv2_hpu.data_service import address, client
from mnv2_hpu.errors import UserError


@pytest.mark.parametrize(
  "text", ["", "loader", "loader:", "http://loader:5050", "loader:0", "loader:70000"]
)
def test_another_form_is_refused(text):
  with pytest.raises(UserError, match=r"as in grpc://localhost:5050\.$"):
    address.parse(text, "service_address")


def test_a_dispatcher_that_does_not_answer_is_named_with_what_starts_one(monkeypatch):
  monkeypatch.setattr(client, "_CONNECT_SECONDS", 0.2)
  (port,) = cluster.free_ports(1)

  with pytest.raises(UserError) as error:
    client.check(DataConfig(service_address=f"grpc://localhost:{port}"))

  said = str(error.value)
  assert f"answers at grpc://localhost:{port} (Connection refused" in said
  assert said.endswith(f"mnv2-data-service dispatcher --port={port}")
  assert "\n" not in said


def test_a_worker_is_reached_where_the_dispatcher_sees_it():
  with socket.create_server(("127.0.0.1", 0)) as server:
    dispatcher = address.Address("localhost", server.getsockname()[1])
    assert address.own_host_seen_from(dispatcher, 5.0) == "127.0.0.1"
