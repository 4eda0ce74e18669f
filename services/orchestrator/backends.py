"""The replicas behind the orchestrator: a channel each, polled for card, health and load, and told at each poll how
they stand. A replica that is missing at start or dies later is simply not a candidate until it answers again.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Final

from services.orchestrator.attempts import Attempts
from services.orchestrator.budget import RetryBudget
from services.orchestrator.discovery.place import Discovery, Place
from services.orchestrator.hedging import RecentTimes
from services.orchestrator.outliers import Outliers
from services.orchestrator.replica import Replica
from services.orchestrator.routing import Candidate, Route
from services.orchestrator.standing import Known, Standing, standing_of
from services.orchestrator.trial import Rules, Trials
from triptych.card import KINDS, Card
from triptych.serving.link import Link
from triptych.tls import Certificates, TlsFiles

log = logging.getLogger(__name__)

STAGES: Final = KINDS


class Backends:
    """All replicas by stage, kept up to date in the background between `start` and `stop`."""

    def __init__(
        self,
        discovery: Discovery,
        poll_interval_ms: float,
        max_message_bytes: int,
        tls: TlsFiles | None = None,
        rules: Rules = Rules(),  # noqa: B008 (frozen)
        silence_ms: float = 700,
        silence_alone_ms: float = 5000,
        budget: RetryBudget | None = None,
    ) -> None:
        """With `tls` each replica must show a certificate for its place's name. Raises InvalidArgument when the files
        cannot be used. A replica that is asked and says nothing for `silence_ms` is taken for dead; for
        `silence_alone_ms` where no other one could take over, and an error too many is worse than waiting. `budget` is
        for all retries."""
        self._certificates = Certificates(tls) if tls is not None else None
        self._discovery = discovery
        self._poll_interval_s = poll_interval_ms / 1000
        self._silence_s = silence_ms / 1000
        self._silence_alone_s = max(silence_ms, silence_alone_ms) / 1000
        self.budget = budget or RetryBudget(ratio=0.2, burst=128)
        self.outliers = Outliers()
        self.encode_times = RecentTimes()
        self._max_message_bytes = max_message_bytes
        self._rules = rules
        self._id = secrets.token_hex(8)
        self._replicas: dict[tuple[str, str], Replica] = {}
        self._watchers: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._finder: asyncio.Task[None] | None = None
        self._is_informed = False  # every replica has been asked once: what is missing is missing indeed
        self.trials = Trials(rules)

    async def start(self) -> None:
        """Returns once every replica has been asked once; a missing one is no failure."""
        await self._discovery.start()
        await self._find()
        await asyncio.gather(*(replica.asked.wait() for replica in self._replicas.values()))
        self._is_informed = True
        self._judge()
        self._finder = asyncio.create_task(self._keep_finding())

    async def stop(self) -> None:
        tasks = [*self._watchers.values(), *([self._finder] if self._finder else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._discovery.stop()
        await asyncio.gather(*(replica.say_goodbye() for replica in self._replicas.values()))
        await asyncio.gather(*(replica.close() for replica in self._replicas.values()))

    def replicas(self, stage: str) -> list[Replica]:
        return [replica for (kind, _), replica in self._replicas.items() if kind == stage]

    def candidates(self, stage: str) -> list[Candidate]:
        """Those that take new requests now, without outliers."""
        serving = self._serving(stage)
        ejected = self._ejected(serving)
        return [candidate for candidate in serving if candidate.address not in ejected]

    def num_outliers(self, stage: str) -> int:
        """Serving replicas that are left out for now."""
        return len(self._ejected(self._serving(stage)))

    def attempts(self, candidate: Candidate) -> Attempts:
        stage = candidate.card.kind
        return Attempts(self.replicas(stage), candidate, self.budget, self._ejected(self._serving(stage)))

    def _serving(self, stage: str) -> list[Candidate]:
        """Those open to new requests."""
        return [c for replica in self.replicas(stage) if replica.is_open and (c := replica.candidate()) is not None]

    def _ejected(self, serving: Sequence[Candidate]) -> set[str]:
        by_card: dict[str, list[str]] = {}
        for candidate in serving:
            by_card.setdefault(candidate.card.digest, []).append(candidate.address)
        now = time.monotonic()
        return {address for alike in by_card.values() for address in self.outliers.ejected(alike, now)}

    @contextmanager
    def pinned(self, route: Route) -> Iterator[None]:
        """The replicas of `route` stay, where they may, until the block ends: they drain, but do not leave."""
        with ExitStack() as stack:
            for member in route.members:
                if replica := self._replicas.get((member.card.kind, member.address)):
                    stack.enter_context(replica.pinned())
            yield

    async def _keep_finding(self) -> None:
        while True:
            await asyncio.sleep(self._poll_interval_s)
            with _round("finding replicas"):
                await self._find()

    async def _find(self) -> None:
        """Starts watching replicas that appeared; those that are gone get nothing new, and are dropped once idle."""
        found = {(place.stage, place.address): place for place in await self._discovery.find()}
        for key, place in found.items():
            if key in self._replicas:
                self._replicas[key].move(place)
            else:
                self._replicas[key] = self._replica(place)
                self._watchers[key] = asyncio.create_task(self._watch(self._replicas[key]))
        for key in self._replicas.keys() - found.keys():
            self._replicas[key].leave()
            if self._replicas[key].is_idle:
                await self._forget(key)

    async def _watch(self, replica: Replica) -> None:
        known = ""
        while True:
            with _round(f"polling {replica.stage} at {replica.address}"):
                await replica.poll()
                if known and replica.replica_id not in ("", known):
                    self.outliers.forget(replica.address)
                known = replica.replica_id or known
                self._judge()
            await asyncio.sleep(self._poll_interval_s)

    def _replica(self, place: Place) -> Replica:
        key = place.stage, place.address
        return Replica(
            place, partial(self._open_link, place), partial(self._silence_of, key), self._id, self._rules.share
        )

    def _silence_of(self, key: tuple[str, str]) -> float:
        """How long this replica may say nothing, in seconds."""
        card = self._replicas[key].card if key in self._replicas else None
        peers = (replica for other, replica in self._replicas.items() if other != key and replica.is_serving)
        return self._silence_s if card and any(peer.card == card for peer in peers) else self._silence_alone_s

    async def _forget(self, key: tuple[str, str]) -> None:
        watcher = self._watchers.pop(key)
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        self.outliers.forget(key[1])
        replica = self._replicas.pop(key)
        await replica.say_goodbye()
        await replica.close()
        self._judge()

    def _judge(self) -> None:
        """How everybody stands, now that one of them has changed."""
        if not self._is_informed:
            return
        open_ = [(replica, replica.card) for replica in self._replicas.values() if replica.is_open and replica.card]
        sound = [card for replica, card in open_ if not self.trials.fault(replica.stage, replica.generation)]
        stages = frozenset(stage for stage, _ in self._replicas)
        encoders, llms, decoders = ([card for card in sound if card.kind == stage] for stage in STAGES)
        known = Known(encoders, llms, decoders, stages)
        fits = {replica.key: standing_of(card, known) for replica, card in open_}
        fitting = [replica for replica, _ in open_ if fits[replica.key].word != "unchained"]
        self.trials.update(_generations(self._replicas.values()), _generations(fitting))
        for replica, card in open_:
            replica.standing = self._standing(replica, card, fits[replica.key])

    def _standing(self, replica: Replica, card: Card, fit: Standing) -> Standing:
        if fault := self.trials.fault(replica.stage, replica.generation):
            return Standing("quarantined", fault)
        if fit.word == "chained" and self.trials.is_on_trial(replica.stage, replica.generation):
            return Standing("trial", "an older generation serves beside it")
        return fit

    def _open_link(self, place: Place) -> Link:
        return Link(place.address, self._max_message_bytes, self._certificates, place.server_name)


@contextmanager
def _round(what: str) -> Iterator[None]:
    """Around one round of a task that goes on as long as the process: it must outlive what nobody foresaw. Ended by it,
    a replica would never be asked again, or none be found any more, and nothing would say so."""
    try:
        yield
    except Exception as error:  # whatever it is, the next round may do better; the trace says what to mend
        log.error("round failed", extra={"what": what}, exc_info=error)


def _generations(replicas: Iterable[Replica]) -> dict[str, set[str]]:
    """By stage."""
    found: dict[str, set[str]] = {stage: set() for stage in STAGES}
    for replica in replicas:
        found[replica.stage].add(replica.generation)
    return found
