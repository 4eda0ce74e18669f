"""Users who ask, draw and edit all the time, and notice everything."""

import itertools
import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

from tests.integration.pictures import encoded, noise
from triptych.client import Client
from triptych.replies import Reply, ServedBy
from triptych.requests import Params

log = logging.getLogger(__name__)

NUMBERS = itertools.count(1)  # of all loads: each request has a picture that no cache has seen
PARAMS = Params(seed=7, steps=2, max_tokens=4)


@dataclass
class Turn:
    """One finished request, when it ended, and who served it."""

    kind: str
    served_by: tuple[ServedBy, ...]
    ended_s: float

    def generation(self, stage: str) -> str:
        return next((served.generation for served in self.served_by if served.kind == stage), "")


@dataclass
class Load:
    """Between entering and leaving, one thread per kind of request."""

    address: str
    turns: list[Turn] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._use, args=(kind,)) for kind in ("ask", "draw", "edit")]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        log.info("%d requests answered, %d failed", len(self.turns), len(self.failures))

    def _use(self, kind: str) -> None:
        with Client(self.address, timeout_s=120) as client:
            while True:
                if self._stopping.wait(0.02):
                    return
                try:
                    reply = respond(client, kind, next(NUMBERS))
                except Exception as error:  # noqa: BLE001 (a failure of any kind is what we look for)
                    self.failures.append(f"{kind}: {type(error).__name__}: {error}")
                else:
                    self.turns.append(Turn(kind, reply.done.served_by, time.monotonic()))

    def since(self, began_s: float) -> list[Turn]:
        return [turn for turn in self.turns if turn.ended_s >= began_s]

    def served(self, stage: str) -> Counter[str]:
        """Requests by the generation of a stage."""
        return Counter(turn.generation(stage) for turn in self.turns if turn.generation(stage))


def respond(client: Client, kind: str, number: int = 0) -> Reply:
    picture: Any = encoded(noise(seed=number))
    if kind == "ask":
        return client.chat().send("What color is it?", [picture], "understand", PARAMS)
    if kind == "draw":
        return client.chat().send("a red circle", (), "generate", PARAMS)
    return client.chat().send("make it blue", [picture], "edit", PARAMS)
