"""The chain of one request, and another one when a member of it fails before anything was shown."""

import random

from services.orchestrator.backends import Backends
from services.orchestrator.facts import DecoderFacts
from services.orchestrator.request import Request
from services.orchestrator.routing import Candidate, Leaning, Route, choose, decoder_reason, name_of
from services.orchestrator.trial import BLAMELESS
from triptych.errors import TriptychError, Unavailable, Unimplemented


class Chooser:
    """Remembers which generations failed this request; they are not chosen again."""

    def __init__(self, backends: Backends, request: Request) -> None:
        self._backends = backends
        self._request = request
        # Of our own: by the request's id, which may be the caller's, callers would choose the generation on trial.
        self._leaning = Leaning(random.random(), request.chain)
        self._avoided: set[tuple[str, str]] = set()

    def route(self) -> Route:
        """Raises Unavailable, FailedPrecondition or Unimplemented, naming who is missing."""
        route = choose(
            self._candidates("encoder"),
            self._candidates("llm"),
            self._candidates("decoder"),
            pictures=bool(self._request.pictures),
            task=self._request.task,
            leaning=self._leaning,
        )
        if route.decoder is None or DecoderFacts.of(route.decoder.card).handover != "loop":
            return route
        if self._request.task == "auto":
            return Route(route.encoder, route.llm, None)
        raise Unimplemented(f"{name_of(route.decoder.card)} draws by handover loop, not served yet", stage="decoder")

    def reroute(self, route: Route, error: TriptychError) -> Route:
        """After `error` of a member of `route`: a chain without its generation. Raises `error` where there is none, and
        where another one would not help."""
        self._avoid(route.members, error)
        try:
            return self.route()
        except TriptychError:
            raise error from None

    def another_decoder(self, route: Route, error: TriptychError) -> Candidate:
        """As `reroute`, with the same LLM: its hidden states are at hand."""
        self._avoid([route.decoder] if route.decoder else [], error)
        fitting = [d for d in self._candidates("decoder") if not decoder_reason(route.llm.card, d.card)]
        if not fitting:
            raise error
        return min(fitting, key=lambda d: (*self._leaning.rank(d), d.load, d.num_served))

    def _candidates(self, stage: str) -> list[Candidate]:
        return [c for c in self._backends.candidates(stage) if (stage, c.generation) not in self._avoided]

    def _avoid(self, members: list[Candidate], error: TriptychError) -> None:
        """Raises `error` unless it is the fault of one of `members`. Of an established generation only its absence
        counts: a bug in it is likely a bug in the request, which must not go from one generation to the next."""
        for member in members:
            key = member.card.kind, member.generation
            is_suspect = self._backends.trials.is_suspect(*key)
            is_at_fault = isinstance(error, Unavailable) or (is_suspect and error.code not in BLAMELESS)
            if key[0] == error.stage and is_at_fault:
                self._avoided.add(key)
                return
        raise error
