"""Which replica serves a stage of one request, and which one next when that goes away."""

from collections.abc import Sequence

from services.orchestrator.replica import Replica
from services.orchestrator.routing import Candidate
from triptych.errors import Unavailable


class Attempts:
    """The replicas one stage of one request may use: the chosen one, then others with the same card."""

    def __init__(self, replicas: Sequence[Replica], chosen: Candidate) -> None:
        """Raises Unavailable when the chosen replica has gone meanwhile and no other has its card."""
        self._replicas = replicas
        self._card = chosen.card  # ports too: the same weights under another space are another component
        self._tried: set[str] = set()
        gone = f"{chosen.card.label} at {chosen.address} went away, and no other replica serves it"
        self.replica = self._next(Unavailable(gone, stage=chosen.card.kind, retry_after_ms=1000), chosen.address)

    def advance(self, error: Unavailable) -> None:
        """Moves on to the least loaded replica not tried yet. Raises `error` when there is none."""
        self.replica = self._next(error)

    def _next(self, error: Unavailable, preferred: str = "") -> Replica:
        usable = [
            (address != preferred, candidate.load, candidate.num_served, index)
            for index, replica in enumerate(self._replicas)
            if (address := replica.address) not in self._tried
            and (candidate := replica.candidate()) is not None
            and candidate.card == self._card
        ]
        if not usable:
            raise error
        replica = self._replicas[min(usable)[3]]
        self._tried.add(replica.address)
        return replica
