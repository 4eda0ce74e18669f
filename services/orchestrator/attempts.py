"""Which replica serves a stage of one request, and which one next when that fails."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Final

from services.orchestrator.budget import RetryBudget
from services.orchestrator.replica import Replica
from services.orchestrator.routing import Candidate
from triptych.errors import ResourceExhausted, Unavailable

MAX_ATTEMPTS: Final = 4  # of one stage of one request
MAX_WAITS: Final = 30  # for full queues, each as long as the replica said
LOOK_S: Final = 0.5
Failure = Unavailable | ResourceExhausted


class Attempts:
    """The replicas one stage of one request may use: the chosen one, then others with the same card. One that failed
    may be asked again when it has answered a poll since, after all others.
    """

    def __init__(
        self, replicas: Sequence[Replica], chosen: Candidate, budget: RetryBudget, ejected: Collection[str] = ()
    ) -> None:
        """`ejected`: addresses to be asked last. Raises Unavailable when the chosen replica has gone meanwhile and no
        other has its card."""
        self._replicas = replicas
        self._card = chosen.card  # ports too: the same weights under another space are another component
        self._budget = budget
        self._ejected = ejected
        self._tried: list[str] = []
        self._num_waits = 0
        budget.called()
        gone = f"{chosen.card.label} at {chosen.address} went away, and no other replica serves it"
        self.replica = self._next(Unavailable(gone, stage=chosen.card.kind, retry_after_ms=1000), chosen.address)

    async def advance(self, error: Failure, *, has_begun: bool = False) -> None:
        """Moves on to the best replica left. Raises `error` when there is none, or when all requests together have
        tried again too often. What `has_begun` is not thrown away because all queues are full: it waits.
        """
        if isinstance(error, ResourceExhausted):
            await self._pass_full(error, has_begun)
        elif len(self._tried) >= MAX_ATTEMPTS:
            raise error
        else:
            try:
                replica = self._next(error)
            except Unavailable:
                await self._look_again()
                replica = self._next(error)
            self._move(replica, error)

    async def _pass_full(self, error: ResourceExhausted, has_begun: bool) -> None:
        if not error.retry_after_ms:  # no queue was full: the request is too large for the machine
            raise error
        try:
            self._move(self._next(error, skipped=self._tried), error)
        except ResourceExhausted:
            if not has_begun or self._num_waits == MAX_WAITS:
                raise
            self._num_waits += 1
            await asyncio.sleep(error.retry_after_ms / 1000)
            self.replica = self._next(error)

    async def _look_again(self) -> None:
        """At those that failed, before giving up: only a connection may have broken."""
        polls = [asyncio.create_task(r.poll()) for r in self._replicas if r.address in self._tried]
        await asyncio.wait(polls, timeout=LOOK_S)
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)

    def _move(self, replica: Replica, error: Failure) -> None:
        if not self._budget.spend():
            raise error
        self.replica = replica

    def spare(self) -> Replica | None:
        """An idle replica that was not tried yet, for the same work at the same time; paid for like a retry."""
        idle = [
            replica
            for replica in self._replicas
            if replica.address not in (*self._tried, *self._ejected)
            and (candidate := replica.candidate()) is not None
            and replica.is_open
            and (candidate.card, candidate.load) == (self._card, 0)
        ]
        if not idle or not self._budget.spend():
            return None
        self._tried.append(idle[0].address)
        return idle[0]

    def _next(self, error: Failure, preferred: str = "", skipped: Collection[str] = ()) -> Replica:
        usable = [
            (
                address in self._tried,
                address != preferred,
                not replica.is_open,
                candidate.share == 0,
                address in self._ejected,
                *candidate.busyness,
                index,
            )
            for index, replica in enumerate(self._replicas)
            if (address := replica.address) not in skipped
            and (candidate := replica.candidate()) is not None
            and candidate.card == self._card
        ]
        if not usable:
            raise error
        replica = self._replicas[min(usable)[-1]]
        self._tried.append(replica.address)
        return replica
