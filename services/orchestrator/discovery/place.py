"""What every way of discovery finds, and what all of them have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Place:
    """Where one replica listens. `server_name` is what its certificate must carry; `share`, where given, holds instead
    of what the replica says of itself; one that `is_leaving` gets no new requests.
    """

    stage: str
    address: str
    server_name: str = ""
    share: float | None = None
    is_leaving: bool = False


class Discovery(Protocol):
    """Asked again and again; must answer soon, from what is known."""

    async def start(self) -> None: ...

    async def find(self) -> Sequence[Place]:
        """All replicas there are now, serving or not."""

    async def stop(self) -> None: ...
