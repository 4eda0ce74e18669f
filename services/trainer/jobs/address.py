"""This machine as others reach it: its address, and a place on it where they can meet."""

import socket


def address_towards(host: str, port: int) -> str:
    """This machine's, as the other one sees it; of IPv6 only where that has no other. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    family, _, _, _, there = min(found, key=lambda each: each[0] != socket.AF_INET)
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(there)  # sends nothing
        return str(probe.getsockname()[0])


def meeting_place(address: str) -> str:
    """host:port, free as yet. Raises OSError when the address is none of this machine's."""
    family, _, _, _, here = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
    with socket.socket(family) as probe:
        probe.bind(here)
        host = f"[{address}]" if family == socket.AF_INET6 else address
        return f"{host}:{probe.getsockname()[1]}"
