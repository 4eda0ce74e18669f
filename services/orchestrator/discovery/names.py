"""Addresses in the settings. A name may stand for many replicas: on Kubernetes, a headless Service for all its pods."""

import asyncio
import ipaddress
import socket
from collections.abc import Mapping, Sequence

from services.orchestrator.discovery.place import Place


class Names:
    """`addresses`: stage -> "host:port"s, looked up anew each time. While a name cannot be resolved, what it stood for
    last holds."""

    def __init__(self, addresses: Mapping[str, Sequence[str]]) -> None:
        self._addresses = addresses
        self._last: dict[str, list[str]] = {}

    async def start(self) -> None:
        """Nothing to do."""

    async def find(self) -> Sequence[Place]:
        return [
            Place(stage, address, name.rpartition(":")[0])
            for stage, names in self._addresses.items()
            for name in names
            for address in await self._resolve(name)
        ]

    async def _resolve(self, name: str) -> list[str]:
        found = await resolve(name)
        if found == [name]:  # an address, or a name that cannot be resolved now
            return self._last.get(name, found)
        self._last[name] = found
        return found

    async def stop(self) -> None:
        """Nothing to do."""


async def resolve(address: str) -> list[str]:
    """All "ip:port" behind a "host:port", IPv4 if there is any. What cannot be resolved now is returned as it is, and
    will not connect.
    """
    host, _, port = address.rpartition(":")
    if _is_ip(host.strip("[]")):
        return [address]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except OSError:
        return [address]
    v4 = sorted({f"{info[4][0]}:{port}" for info in found if info[0] == socket.AF_INET})
    return v4 or sorted({f"[{info[4][0]}]:{port}" for info in found})


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
