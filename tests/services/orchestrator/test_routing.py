from dataclasses import replace

import pytest

from services.orchestrator.facts import DecoderFacts, LlmFacts, check_card
from services.orchestrator.routing import Candidate, Leaning, choose, verdicts
from tests.services.orchestrator.cards import decoder_card, encoder_card, llm_card
from triptych.card import Card, Port
from triptych.errors import CheckpointError, FailedPrecondition, Unavailable, Unimplemented


def serving(*cards: Card, loads: tuple[int, ...] = ()) -> list[Candidate]:
    loads = loads or (0,) * len(cards)
    return [Candidate(f"{c.kind}{i}", c, load) for i, (c, load) in enumerate(zip(cards, loads, strict=True))]


ENCODERS, LLMS, DECODERS = serving(encoder_card()), serving(llm_card()), serving(decoder_card())


def test_whole_chain() -> None:
    route = choose(ENCODERS, LLMS, DECODERS, pictures=True, task="edit")
    assert (route.encoder, route.llm, route.decoder) == (ENCODERS[0], LLMS[0], DECODERS[0])


def test_stages_that_are_not_needed_are_left_out() -> None:
    assert choose(ENCODERS, LLMS, DECODERS, pictures=False, task="generate").encoder is None
    assert choose(ENCODERS, LLMS, DECODERS, pictures=True, task="understand").decoder is None
    assert choose([], LLMS, [], pictures=False, task="understand").llm == LLMS[0]


@pytest.mark.parametrize(
    ("missing", "encoders", "llms", "decoders"),
    [("encoder", [], LLMS, DECODERS), ("llm", ENCODERS, [], DECODERS), ("decoder", ENCODERS, LLMS, [])],
)
def test_missing_stage_is_named(missing: str, encoders, llms, decoders) -> None:
    with pytest.raises(Unavailable, match=f"no {missing} replica is serving") as caught:
        choose(encoders, llms, decoders, pictures=True, task="edit")
    assert caught.value.stage == missing
    assert caught.value.retry_after_ms > 0


def test_least_loaded_of_each_stage() -> None:
    encoders = serving(encoder_card(), encoder_card(), loads=(2, 1))
    llms = serving(llm_card(), llm_card(), loads=(0, 5))
    decoders = serving(*[decoder_card()] * 3, loads=(3, 3, 1))
    route = choose(encoders, llms, decoders, pictures=True, task="auto")
    assert (route.encoder.address, route.llm.address, route.decoder.address) == ("encoder1", "llm0", "decoder2")


def test_equal_loads_take_turns() -> None:
    llms = [Candidate("llm0", llm_card(), 1, num_served=4), Candidate("llm1", llm_card(), 1, num_served=3)]
    assert choose([], llms, [], pictures=False, task="understand").llm.address == "llm1"


def test_load_never_breaks_a_chain() -> None:
    """During an upgrade two generations serve side by side: each LLM goes with its own partners, however busy."""
    encoders = serving(encoder_card(), encoder_card(space="in@2"), loads=(9, 0))
    llms = serving(llm_card(), llm_card(space="in@2", img_space="img@2"), loads=(0, 1))
    decoders = serving(decoder_card(), decoder_card(space="img@2"), loads=(9, 0))
    route = choose(encoders, llms, decoders, pictures=True, task="edit")
    assert (route.encoder.address, route.llm.address, route.decoder.address) == ("encoder0", "llm0", "decoder0")


def test_llm_without_partners_is_passed_over() -> None:
    llms = serving(llm_card(space="in@2"), llm_card(), loads=(0, 9))
    assert choose(ENCODERS, llms, DECODERS, pictures=True, task="edit").llm.address == "llm1"


def test_accepted_older_space() -> None:
    port = Port("hidden_states", "hidden_states", "img@2", accepts=("img@1",))
    newer = serving(decoder_card(inputs=(port,)))
    assert choose([], LLMS, newer, pictures=False, task="generate").decoder == newer[0]


def test_wrong_encoder_is_refused_naming_both_cards_and_spaces() -> None:
    with pytest.raises(FailedPrecondition) as caught:
        choose(serving(encoder_card(space="other@7")), LLMS, DECODERS, pictures=True, task="understand")
    for named in ("siglip-tiny 1.0.0 (e0e0)", "mistral-tiny 1.0.0 (1111)", "other@7", "in@1"):
        assert named in str(caught.value)


def test_wrong_decoder_is_refused_naming_both_cards_and_spaces() -> None:
    with pytest.raises(FailedPrecondition) as caught:
        choose([], LLMS, serving(decoder_card(space="img@9")), pictures=False, task="generate")
    for named in ("mistral-tiny 1.0.0 (1111)", "diffusion-tiny 1.0.0 (dddd)", "img@1", "img@9"):
        assert named in str(caught.value)


def test_same_space_of_another_width_is_refused() -> None:
    narrow = encoder_card(outputs=(Port("embeddings", "embeddings", "in@1", "f32", (3, 4)),))
    with pytest.raises(FailedPrecondition, match="gives width 4, .* takes 8"):
        choose(serving(narrow), LLMS, [], pictures=True, task="understand")


def test_auto_goes_without_a_decoder() -> None:
    assert choose([], LLMS, [], pictures=False, task="auto").decoder is None
    assert choose([], LLMS, serving(decoder_card(space="img@9")), pictures=False, task="auto").decoder is None


def test_auto_prefers_an_llm_that_can_have_one() -> None:
    llms = serving(llm_card(img_space="img@9"), llm_card(), loads=(0, 3))
    assert choose([], llms, DECODERS, pictures=False, task="auto").llm.address == "llm1"


def test_llm_that_does_not_draw() -> None:
    silent = serving(llm_card(handover="none"))
    assert choose([], silent, DECODERS, pictures=False, task="auto").decoder is None
    with pytest.raises(Unimplemented, match="mistral-tiny .* cannot draw"):
        choose([], silent, DECODERS, pictures=False, task="generate")


def test_handover_must_be_the_same_on_both_sides() -> None:
    with pytest.raises(FailedPrecondition, match="hands over by once, .* takes loop"):
        choose([], LLMS, serving(decoder_card(handover="loop")), pictures=False, task="generate")


def test_verdicts_cover_distinct_cards() -> None:
    other = encoder_card(space="other@7", digest="sha256:e9e9")
    found = list(verdicts([encoder_card(), encoder_card(), other], [llm_card()], [decoder_card()]))
    assert [(v.encoder.digest, not v.reason) for v in found] == [("sha256:e0e0", True), ("sha256:e9e9", False)]
    assert "other@7" in found[1].reason


def test_verdicts_with_a_stage_missing() -> None:
    (only,) = verdicts([], [llm_card()], [])
    assert (only.encoder, only.decoder, only.reason) == (None, None, "")
    assert list(verdicts([encoder_card()], [], [decoder_card()])) == []


@pytest.mark.parametrize(
    ("card", "named"),
    [
        (llm_card(facts={}), "facts.template is None, must be dict"),
        (llm_card(facts={**llm_card().facts, "template": {"nonsense": 1}}), "nonsense"),
        (llm_card(facts={**llm_card().facts, "handover": "twice"}), "facts.handover is 'twice'"),
        (llm_card(facts={**llm_card().facts, "max_model_len": "many"}), "facts.max_model_len is 'many', must be int"),
        (llm_card(outputs=()), "no output 'hidden_states'"),
        (decoder_card(facts={}), "facts.handover"),
        (decoder_card(inputs=()), "no input 'hidden_states'"),
        (encoder_card(outputs=()), "no output 'embeddings'"),
    ],
)
def test_card_that_cannot_be_used(card: Card, named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        check_card(card, card.kind)


def test_card_of_another_kind() -> None:
    with pytest.raises(
        CheckpointError, match="llm mistral-tiny 1.0.0 answers where a card of kind encoder is expected"
    ):
        check_card(llm_card(), "encoder")


def test_facts() -> None:
    assert LlmFacts.of(llm_card()).max_model_len == 512
    assert DecoderFacts.of(decoder_card()).max_num_inference_steps == 100
    check_card(replace(llm_card(handover="none")), "llm")


def generations(kind_card: Card, share: float, *, new: Card | None = None) -> list[Candidate]:
    """An old one, idle, and a new one with its share, idle too."""
    newer = new or replace(kind_card, digest=kind_card.digest + "2")
    return [Candidate("old", kind_card, generation="old"), Candidate("new", newer, generation="new", share=share)]


@pytest.mark.parametrize(("draw", "address"), [(0.0, "new"), (0.29, "new"), (0.3, "old"), (0.99, "old")])
def test_a_share_of_the_requests_and_no_more(draw: float, address: str) -> None:
    decoders = generations(decoder_card(), 0.3)
    route = choose(ENCODERS, LLMS, decoders, pictures=False, task="generate", leaning=Leaning(draw))
    assert route.decoder.address == address


def test_beyond_its_share_only_when_nobody_else_could() -> None:
    only = [Candidate("new", decoder_card(), share=0.0)]
    assert choose([], LLMS, only, pictures=False, task="generate", leaning=Leaning(0.5)).decoder.address == "new"


@pytest.mark.parametrize(("draw", "address"), [(0.1, "new"), (0.5, "old")])
def test_a_new_pair_gets_its_share_as_a_pair(draw: float, address: str) -> None:
    encoders = generations(encoder_card(), 0.3, new=encoder_card("in@2", digest="sha256:e2"))
    llms = generations(llm_card(), 0.3, new=llm_card("in@2", digest="sha256:12"))
    route = choose(encoders, llms, DECODERS, pictures=True, task="edit", leaning=Leaning(draw))
    assert (route.encoder.address, route.llm.address) == (address, address)


@pytest.mark.parametrize("draw", [0.0, 0.5])
def test_a_conversation_stays_where_it_was(draw: float) -> None:
    decoders = generations(decoder_card(), 0.3)
    for candidate in decoders:
        leaning = Leaning(draw, frozenset({LLMS[0].card.digest, candidate.card.digest}))
        assert choose([], LLMS, decoders, pictures=False, task="generate", leaning=leaning).decoder == candidate


def test_a_conversation_does_not_stay_with_one_in_quarantine() -> None:
    decoders = generations(decoder_card(), 0.0)
    leaning = Leaning(0.5, frozenset({decoders[1].card.digest}))
    assert choose([], LLMS, decoders, pictures=False, task="generate", leaning=leaning).decoder.address == "old"


def test_a_conversation_whose_chain_is_gone_goes_on_with_another() -> None:
    leaning = Leaning(0.5, frozenset({"sha256:gone"}))
    assert choose([], LLMS, DECODERS, pictures=False, task="generate", leaning=leaning).decoder == DECODERS[0]
