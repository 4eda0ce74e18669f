"""What the orchestrator needs to know of each kind of card, typed. Plain Python: no wire, no sockets."""

from dataclasses import dataclass
from typing import Any, Self

from triptych.card import Card
from triptych.errors import CheckpointError
from triptych.prompts import PromptTemplate


@dataclass(frozen=True)
class LlmFacts:
    """How to lay out a prompt, and what comes back."""

    template: PromptTemplate
    handover: str  # "once", "loop" or "none"
    max_model_len: int

    @classmethod
    def of(cls, card: Card) -> Self:
        """Raises CheckpointError naming the card and the fact that is missing or malformed."""
        try:
            template = PromptTemplate.from_dict(_fact(card, "template", dict))
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{card.label}: facts.template: {error}") from error
        handover = _fact(card, "handover", str)
        if handover not in ("once", "loop", "none"):
            raise CheckpointError(f"{card.label}: facts.handover is {handover!r}, must be once, loop or none")
        return cls(template, handover, _fact(card, "max_model_len", int))


@dataclass(frozen=True)
class DecoderFacts:
    """How a picture is asked for."""

    handover: str
    max_num_inference_steps: int

    @classmethod
    def of(cls, card: Card) -> Self:
        """Raises CheckpointError naming the card and the fact that is missing or malformed."""
        return cls(_fact(card, "handover", str), _fact(card, "max_num_inference_steps", int))


def check_card(card: Card, kind: str) -> None:
    """Raises CheckpointError when the card is of another kind, or lacks a port or a fact that will be asked for."""
    if card.kind != kind:
        raise CheckpointError(f"{card.label} answers where a card of kind {kind} is expected")
    if kind == "encoder":
        card.output("embeddings")
    elif kind == "llm":
        card.input("embeddings")
        if LlmFacts.of(card).handover != "none":
            card.output("hidden_states")
    else:
        card.input("hidden_states")
        DecoderFacts.of(card)


def _fact(card: Card, name: str, expected: type) -> Any:
    value = card.facts.get(name)
    if not isinstance(value, expected) or isinstance(value, bool):
        raise CheckpointError(f"{card.label}: facts.{name} is {value!r}, must be {expected.__name__}")
    return value
