"""Who makes the call that is being served: the name of a key, or a token's subject. Stands in the call's log line."""

from contextvars import ContextVar
from typing import Final

current: Final[ContextVar[str]] = ContextVar("caller", default="")
