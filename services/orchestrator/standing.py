"""What every replica is told: whether it takes part in a compatible chain of those that have passed their probes. Pure
Python over cards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from services.orchestrator.facts import LlmFacts
from services.orchestrator.routing import decoder_reason, encoder_reason
from triptych.card import Card

Word = Literal["unknown", "chained", "unchained", "trial", "quarantined"]


@dataclass(frozen=True)
class Standing:
    """`reason`: why it is not chained."""

    word: Word = "unknown"
    reason: str = ""


@dataclass(frozen=True)
class Known:
    """The cards of replicas that serve and stay, quarantined ones apart, and the stages that there should be."""

    encoders: Sequence[Card]
    llms: Sequence[Card]
    decoders: Sequence[Card]
    stages: frozenset[str]


def standing_of(card: Card, known: Known) -> Standing:
    """Of a replica with this card, which is among `known`. While a stage that it needs has nobody serving, nothing is
    said: that fault is not the replica's."""
    if card.kind == "llm":
        return _llm(card, known)
    reasons: list[str] = []
    waiting = "waits for an llm"
    for llm in known.llms:
        reason = encoder_reason(card, llm) if card.kind == "encoder" else decoder_reason(llm, card)
        standing = Standing("unchained", reason) if reason else _llm(llm, known)
        if standing.word == "chained":
            return standing
        if standing.word == "unchained":
            reasons.append(standing.reason)
        else:
            waiting = standing.reason
    if len(reasons) == len(known.llms) > 0:
        return Standing("unchained", "; ".join(dict.fromkeys(reasons)))
    return Standing(reason=waiting)


def _llm(llm: Card, known: Known) -> Standing:
    sides: list[tuple[str, list[str]]] = []
    if "encoder" in known.stages:
        sides.append(("encoder", [encoder_reason(each, llm) for each in known.encoders]))
    if "decoder" in known.stages and LlmFacts.of(llm).handover != "none":
        sides.append(("decoder", [decoder_reason(llm, each) for each in known.decoders]))
    for _, reasons in sides:
        if reasons and all(reasons):
            return Standing("unchained", "; ".join(dict.fromkeys(reasons)))
    for stage, reasons in sides:
        if not reasons:
            return Standing(reason=f"waits for a {stage}" if stage == "decoder" else "waits for an encoder")
    return Standing("chained")
