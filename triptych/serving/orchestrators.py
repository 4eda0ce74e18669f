"""What the orchestrators that poll this replica make of it: whether it fits into a chain, and which requests still
count on it. Many may ask; the one that finds fault is heard.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

log = logging.getLogger(__name__)

FRESH_S: Final = 10.0  # what an orchestrator said longer ago no longer counts: it is gone, or has another replica
MAX_ORCHESTRATORS: Final = 256
LOOK_AGAIN_S: Final = 1.0  # for those that fell silent
POLLS_TO_KNOW: Final = 2  # the first one learns that we drain, the second one says what it then still has for us


@dataclass(frozen=True)
class Verdict:
    """`is_chained` None: the orchestrator cannot tell yet. `num_pinned` counts requests that may still call. One that
    `is_last` will not ask again."""

    orchestrator_id: str
    is_chained: bool | None
    reason: str = ""
    num_pinned: int = 0
    is_last: bool = False


@dataclass
class _Heard:
    verdict: Verdict
    at_s: float
    num_since_draining: int = 0


class Orchestrators:
    """Belongs to one event loop. `on_change` gets whether the replica is part of a chain, when that changes."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._heard: dict[str, _Heard] = {}
        self._spoken = asyncio.Event()
        self.on_change: Callable[[bool], Awaitable[None]] | None = None
        self.is_chained = False
        self.is_draining = False

    async def hear(self, verdict: Verdict) -> None:
        """One refusal outweighs any number of consents; while nobody can tell, what was said before holds."""
        known = self._heard.get(verdict.orchestrator_id)
        if known is None and len(self._fresh()) >= MAX_ORCHESTRATORS:
            return
        self._spoken.set()
        if verdict.is_last:
            self._heard.pop(verdict.orchestrator_id, None)
        else:
            num_since = known.num_since_draining if known else 0
            self._heard[verdict.orchestrator_id] = _Heard(verdict, self._now_s(), num_since + self.is_draining)
        told = [heard.verdict for heard in self._fresh() if heard.verdict.is_chained is not None]
        is_chained = all(each.is_chained for each in told) if told else self.is_chained
        if is_chained != self.is_chained:
            self.is_chained = is_chained
            reason = next((each.reason for each in told if not each.is_chained), "")
            log.info("standing", extra={"chained": is_chained, "reason": reason})
            if self.on_change is not None:
                await self.on_change(is_chained)

    async def wait_released(self, timeout_s: float) -> None:
        """Says from now on that we drain, and returns when no orchestrator has a request left that may call us. At
        once where none asks."""
        self.is_draining = True
        ends_s = self._now_s() + timeout_s
        while not self._is_released and (left_s := ends_s - self._now_s()) > 0:
            self._spoken.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._spoken.wait(), min(left_s, LOOK_AGAIN_S))

    @property
    def _is_released(self) -> bool:
        return all(h.num_since_draining >= POLLS_TO_KNOW and h.verdict.num_pinned == 0 for h in self._fresh())

    def _fresh(self) -> list[_Heard]:
        oldest_s = self._now_s() - FRESH_S
        self._heard = {id_: heard for id_, heard in self._heard.items() if heard.at_s >= oldest_s}
        return list(self._heard.values())
