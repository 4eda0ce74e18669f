"""Who may work with whom: chains of encoder, LLM and decoder whose ports share a space. Pure Python over cards."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from services.orchestrator.facts import DecoderFacts, LlmFacts
from triptych.card import Card, Port, matches
from triptych.errors import FailedPrecondition, Unavailable, Unimplemented
from triptych.prompts import Task


@dataclass(frozen=True)
class Candidate:
    """A serving replica as routing sees it. `load` counts its requests, `num_served` breaks ties."""

    address: str
    card: Card
    load: int = 0
    num_served: int = 0

    @property
    def busyness(self) -> tuple[int, int]:
        """The least is called next."""
        return self.load, self.num_served


@dataclass(frozen=True)
class Route:
    """The chain one request is pinned to; a stage the request does not need is None."""

    encoder: Candidate | None
    llm: Candidate
    decoder: Candidate | None


@dataclass(frozen=True)
class Verdict:
    """One combination of cards, and why it cannot work (empty when it can)."""

    encoder: Card | None
    llm: Card
    decoder: Card | None
    reason: str


def choose(
    encoders: Sequence[Candidate],
    llms: Sequence[Candidate],
    decoders: Sequence[Candidate],
    *,
    pictures: bool,
    task: Task,
) -> Route:
    """The least loaded chain that can do `task`; `pictures` says that the conversation holds some. AUTO goes without a
    decoder where none can be had. Raises Unavailable, FailedPrecondition or Unimplemented, naming who is missing.
    """
    must_draw = task in ("generate", "edit")
    _require("llm", llms)
    if pictures:
        _require("encoder", encoders)
    drawing = [llm for llm in llms if LlmFacts.of(llm.card).handover != "none"]
    if must_draw:
        if not drawing:
            raise Unimplemented(f"{name_of(llms[0].card)} cannot draw: its handover is none", stage="llm")
        _require("decoder", decoders)
    routes = [
        Route(_least_loaded(seeing), llm, _least_loaded(painting))
        for llm in (drawing if must_draw else llms)
        for seeing in [[e for e in encoders if not _encoder_reason(e.card, llm.card)]]
        for painting in [[d for d in decoders if task != "understand" and not decoder_reason(llm.card, d.card)]]
        if (seeing or not pictures) and (painting or not must_draw)
    ]
    if not routes:
        raise _incompatible(encoders if pictures else (), drawing if must_draw else llms, decoders if must_draw else ())
    return _without_idle(min(routes, key=lambda r: (r.decoder is None and task == "auto", *r.llm.busyness)), pictures)


def verdicts(encoders: Sequence[Card], llms: Sequence[Card], decoders: Sequence[Card]) -> Iterator[Verdict]:
    """Every combination of distinct cards; a kind without any card stays open."""
    for encoder, llm, decoder in product(_distinct(encoders) or [None], _distinct(llms), _distinct(decoders) or [None]):
        assert llm is not None
        reasons = [_encoder_reason(encoder, llm) if encoder else "", decoder_reason(llm, decoder) if decoder else ""]
        yield Verdict(encoder, llm, decoder, "; ".join(filter(None, reasons)))


def name_of(card: Card) -> str:
    """How an error names a card: kind, name, version and the start of its digest."""
    return f"{card.label} ({card.generation})"


def decoder_reason(llm: Card, decoder: Card) -> str:
    """Why `decoder` cannot paint what `llm` hands over; empty when it can."""
    ours, theirs = LlmFacts.of(llm).handover, DecoderFacts.of(decoder).handover
    if ours == "none":
        return f"{name_of(llm)} does not draw"
    reason = _mismatch(llm, llm.output("hidden_states"), decoder, decoder.input("hidden_states"))
    if not reason and ours != theirs:
        return f"{name_of(llm)} hands over by {ours}, {name_of(decoder)} takes {theirs}"
    return reason


def _encoder_reason(encoder: Card, llm: Card) -> str:
    return _mismatch(encoder, encoder.output("embeddings"), llm, llm.input("embeddings"))


def _mismatch(source: Card, output: Port, target: Card, port: Port) -> str:
    if not matches(output, port):
        accepted = " or ".join((port.space, *port.accepts))
        return f"{name_of(source)} gives {output.space}, {name_of(target)} takes {accepted}"
    if (
        len(output.shape) == len(port.shape) > 0
        and output.shape[-1] != port.shape[-1]
        and min(output.shape[-1], port.shape[-1]) > 0
    ):
        return f"{name_of(source)} gives width {output.shape[-1]}, {name_of(target)} takes {port.shape[-1]}"
    return ""


def _require(stage: str, candidates: Sequence[Candidate]) -> None:
    if not candidates:
        raise Unavailable(f"no {stage} replica is serving", stage=stage, retry_after_ms=1000)


def _least_loaded(candidates: Sequence[Candidate]) -> Candidate | None:
    return min(candidates, key=lambda candidate: candidate.busyness, default=None)


def _without_idle(route: Route, pictures: bool) -> Route:
    return route if pictures else Route(None, route.llm, route.decoder)


def _incompatible(
    encoders: Sequence[Candidate], llms: Sequence[Candidate], decoders: Sequence[Candidate]
) -> FailedPrecondition:
    reasons = {
        reason: None
        for llm in llms
        for reason in [
            *(_encoder_reason(e.card, llm.card) for e in encoders),
            *(decoder_reason(llm.card, d.card) for d in decoders),
        ]
        if reason
    }
    return FailedPrecondition("no compatible chain: " + "; ".join(reasons))


def _distinct(cards: Sequence[Card]) -> list[Card | None]:
    return list({card.digest: card for card in cards}.values())
