"""Names to replicas: on Kubernetes one headless service name stands for all pods of a stage."""

import asyncio
import ipaddress
import socket


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
