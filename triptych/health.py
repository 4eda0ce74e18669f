"""gRPC's health check, by its bytes: the messages are two fields, and the base install has no module for them."""

from __future__ import annotations  # grpc's classes are generic only in their stubs

from typing import Final, cast

import grpc

from triptych.access import Access
from triptych.connection import Connection, open_blocking
from triptych.errors import InvalidArgument, Unavailable

METHOD: Final = "/grpc.health.v1.Health/Check"
SERVING: Final = b"\x08\x01"  # HealthCheckResponse{status: SERVING}
MAX_NAME_BYTES: Final = 127  # its length then is one byte


def check_health(address: str, access: Access, service: str = "", timeout_s: float = 5.0) -> str:
    """The word for a serving process. Raises Unavailable when it answers anything else, or does not answer."""
    name = service.encode()
    if len(name) > MAX_NAME_BYTES:
        raise InvalidArgument(f"service has {len(name)} bytes, must have at most {MAX_NAME_BYTES}")
    request = b"\x0a" + bytes([len(name)]) + name if name else b""
    with Connection(address, access, open_blocking).channel() as channel:
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        try:
            reply = check(request, timeout=timeout_s)
        except grpc.RpcError as error:
            failed = cast("grpc.Call", error)
            raise Unavailable(f"{address}: {failed.details() or failed.code().name}") from None
    if reply != SERVING:
        raise Unavailable(f"{address} is not serving")
    return "serving"
