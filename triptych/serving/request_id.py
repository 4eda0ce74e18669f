"""The request id of the call under way: made or taken at the edge, sent on downstream, in each log line."""

import secrets
from contextvars import ContextVar
from typing import Final

KEY: Final = "x-request-id"
MAX_LENGTH: Final = 128

current: ContextVar[str] = ContextVar("request_id", default="")


def new() -> str:
    """Unguessable, so that one caller cannot name another's request."""
    return secrets.token_hex(8)


def accept(value: str) -> str:
    """The caller's id, or a new one where it sent none, or one longer than 128 characters or not of printable ASCII."""
    is_plain = value.isascii() and value.isprintable()
    return value if 0 < len(value) <= MAX_LENGTH and is_plain else new()
