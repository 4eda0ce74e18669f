"""Addresses of this machine, of either kind."""

import socket

import pytest

from services.trainer.jobs.address import address_towards, meeting_place


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_the_way_there_and_a_place_to_meet(address: str) -> None:
    try:
        assert address_towards(address, 6379) == address
    except OSError:
        pytest.skip(f"this machine has no {address}")
    host, _, port = meeting_place(address).rpartition(":")
    assert host.strip("[]") == address
    assert (host[0] == "[") is (":" in address)
    with socket.create_server((address, int(port)), family=socket.AF_INET6 if ":" in address else socket.AF_INET):
        pass  # it is free


def test_another_machine_s_address() -> None:
    with pytest.raises(OSError, match="Cannot assign requested address"):
        meeting_place("192.0.2.1")
