"""New versions of components put beside those that serve, proved, and put in their place. Nothing is lost on the way:
whatever goes wrong with the new ones, the old ones are still there.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from triptych.client import Client
from triptych.errors import Cancelled, DeadlineExceeded, FailedPrecondition, TriptychError, Unavailable
from triptych.local.crew import DRAIN_TIMEOUT_S, Crew, Launch
from triptych.local.process import Process
from triptych.v1 import component_pb2
from triptych.v1 import orchestrator_pb2 as pb

LOOK_S: Final = 0.1
RETIRE_TIMEOUT_S: Final = 600.0  # what requests of the old version get to end


@dataclass(frozen=True)
class Plan:
    """`launches` by component: several belong together, and take over together. The trial ends after `trial_calls`
    calls to each that went well, or after `trial_s` if fewer came; 0 calls: no trial."""

    launches: Mapping[str, Launch]
    share: float = 1.0
    trial_calls: int = 20
    trial_s: float = 10.0


class Upgrade:
    """One upgrade of `crew`, seen through its orchestrator."""

    def __init__(
        self, crew: Crew, plan: Plan, client: Client, start_timeout_s: float, is_cancelled: Callable[[], bool]
    ) -> None:
        self._crew = crew
        self._plan = plan
        self._client = client
        self._start_timeout_s = start_timeout_s
        self._is_cancelled = is_cancelled
        self._new: list[Process] = []

    def run(self) -> Iterator[str]:
        """Yields what happens, a line each. Raises TriptychError with the reason when the old version goes on serving,
        Cancelled among them."""
        try:
            yield self._start()
            self._await_listening()
            self._crew.publish(self._new, self._plan.share)
            self._await_standing()
            yield f"{self._names} passed the probes and fit"
            yield from self._trial()
        except BaseException:
            self._leave(self._new)
            raise
        old = self._crew.adopt(self._new, self._plan.launches)
        yield f"{self._names} took over"
        self._leave(old)
        yield f"{', '.join(process.name for process in old)} drained and ended"

    @property
    def _names(self) -> str:
        return ", ".join(process.name for process in self._new)

    def _start(self) -> str:
        for service, launch in self._plan.launches.items():
            for _ in self._crew.of(service):
                self._new.append(self._crew.start(service, launch))
        old = [process.name for service in self._plan.launches for process in self._crew.of(service)]
        return f"started {self._names} beside {', '.join(old)}"

    def _await_listening(self) -> None:
        for _ in self._looks(self._start_timeout_s, "does not listen"):
            if all(self._crew.address(process) for process in self._new):
                return

    def _await_standing(self) -> None:
        """Until all of them serve and are part of a chain. Raises FailedPrecondition when one cannot be."""
        for _ in self._looks(self._start_timeout_s, "is not part of a chain"):
            listed = self._looked_up()
            if len(listed) < len(self._new) or any(replica.health != pb.HEALTH_SERVING for replica in listed):
                continue
            self._refuse_faulty(listed)
            if all(replica.standing != component_pb2.STANDING_UNSPECIFIED for replica in listed):
                return

    def _trial(self) -> Iterator[str]:
        if self._plan.trial_calls == 0:
            return
        began_s = time.monotonic()
        for _ in self._looks(float("inf"), ""):
            listed = self._looked_up()
            self._refuse_faulty(listed)
            calls = min((replica.num_calls - replica.num_failed for replica in listed), default=0)
            lasted_s = time.monotonic() - began_s
            if calls >= self._plan.trial_calls or lasted_s >= self._plan.trial_s:
                yield f"{self._names}: {calls} calls or more each went well on trial, in {lasted_s:.1f} s"
                return

    def _leave(self, processes: Sequence[Process]) -> None:
        """They get no new requests, finish what is theirs, and end."""
        self._crew.publish()
        ends_s = time.monotonic() + RETIRE_TIMEOUT_S
        while time.monotonic() < ends_s:
            try:
                if not self._listed(processes):
                    break
            except DeadlineExceeded:  # it is busy: it may still count on them
                pass
            except TriptychError:  # no orchestrator: nobody calls them
                break
            time.sleep(LOOK_S)
        self._crew.end(processes, 2 * DRAIN_TIMEOUT_S)

    def _looks(self, timeout_s: float, missing: str) -> Iterator[None]:
        """Again and again, as long as the new ones live and somebody waits. Raises FailedPrecondition at the end."""
        ends_s = time.monotonic() + timeout_s
        while time.monotonic() < ends_s:
            for process in self._new:
                process.check()
            if self._is_cancelled():
                raise Cancelled("the upgrade was given up")
            yield
            time.sleep(LOOK_S)
        listed = [f"{r.kind} at {r.address}: {r.detail or r.standing_reason}" for r in self._looked_up()]
        known = "; ".join(listed) or "unknown to the orchestrator"
        raise FailedPrecondition(f"{self._names} {missing} after {timeout_s:g} s ({known})")

    def _looked_up(self) -> list[pb.Replica]:
        """The new ones; none while the orchestrator does not answer, which is not their fault."""
        try:
            return self._listed(self._new)
        except (Unavailable, DeadlineExceeded):
            return []

    def _listed(self, processes: Sequence[Process]) -> list[pb.Replica]:
        addresses = {self._crew.address(process) for process in processes}
        return [replica for replica in self._client.components().replicas if replica.address in addresses]

    def _refuse_faulty(self, listed: Sequence[pb.Replica]) -> None:
        for replica in listed:
            stage, reason = replica.kind, replica.standing_reason
            if replica.standing == component_pb2.STANDING_UNCHAINED:
                raise FailedPrecondition(f"the new {stage} fits no partner: {reason}", stage=stage)
            if replica.standing == component_pb2.STANDING_QUARANTINED:
                raise FailedPrecondition(f"the new {stage} is no good: {reason}", stage=stage)
