import pytest

from services.orchestrator.standing import Known, Standing, standing_of
from tests.services.orchestrator.cards import decoder_card, encoder_card, llm_card
from triptych.card import Card

ALL = frozenset({"encoder", "llm", "decoder"})
E1, E2 = encoder_card(), encoder_card("in@2", digest="sha256:e2")
L1, L2 = llm_card(), llm_card("in@2", digest="sha256:12")
D1, D2 = decoder_card(), decoder_card("img@2", digest="sha256:d2")


def known(*cards: Card, stages: frozenset[str] = ALL) -> Known:
    return Known(*([c for c in cards if c.kind == kind] for kind in ("encoder", "llm", "decoder")), stages)


def words(*cards: Card, stages: frozenset[str] = ALL) -> list[str]:
    return [standing_of(card, known(*cards, stages=stages)).word for card in cards]


def test_one_chain() -> None:
    assert words(E1, L1, D1) == ["chained"] * 3


def test_new_encoder_alone_in_another_space() -> None:
    assert words(E1, L1, D1, E2) == ["chained", "chained", "chained", "unchained"]
    reason = standing_of(E2, known(E1, L1, D1, E2)).reason
    assert "gives in@2" in reason
    assert "takes in@1" in reason


def test_llm_and_encoder_changed_together() -> None:
    assert words(E1, L1, D1, E2, L2) == ["chained"] * 5


def test_decoder_for_another_llm() -> None:
    assert words(E1, L1, D1, D2)[3] == "unchained"


def test_an_llm_needs_both_sides() -> None:
    lonely = llm_card("in@2", "img@2", digest="sha256:13")
    assert standing_of(lonely, known(E1, E2, L1, D1, lonely)).word == "unchained"
    assert standing_of(E2, known(E1, E2, L1, D1, lonely)).word == "unchained", "its only LLM has no decoder"


@pytest.mark.parametrize("missing", [E1, L1, D1])
def test_while_a_stage_is_away_nothing_is_said(missing: Card) -> None:
    present = [card for card in (E1, L1, D1) if card is not missing]
    article = "an encoder" if missing.kind == "encoder" else f"a{'n' if missing.kind == 'llm' else ''} {missing.kind}"
    assert [standing_of(card, known(*present)) for card in present] == [Standing(reason=f"waits for {article}")] * 2


def test_a_system_that_does_not_draw_needs_no_decoder() -> None:
    mute = llm_card(handover="none")
    assert words(E1, mute, stages=frozenset({"encoder", "llm"})) == ["chained"] * 2
    assert words(E1, L1, stages=frozenset({"encoder", "llm"})) == ["chained"] * 2
    assert words(E1, mute, D1) == ["chained", "chained", "unchained"]


def test_one_that_cannot_fit_is_told_so_also_while_another_stage_is_away() -> None:
    assert standing_of(L2, known(E1, L1, L2)).word == "unchained"
