"""Cutting: nothing above the limit, whole turns first, never within a picture, and a cut answer has no end."""

import random

import pytest

from services.trainer.data.lengths import Cutter, load_tokenizer
from services.trainer.data.mix import Length
from services.trainer.data.records import BadRecord, Record
from tests.services.trainer.data.published import TOKENIZER, say
from triptych.errors import InvalidArgument
from triptych.prompts import Message, Picture, Special, Text


def cutter(max_tokens: int, template: str = "vicuna_v1") -> Cutter:
    values = {"tokenizer": TOKENIZER, "max_tokens": max_tokens, "num_image_tokens": 36, "template": template}
    return Cutter(Length.model_validate(values))


def chat(num_turns: int, seed: int = 0, words: int = 8) -> Record:
    rng = random.Random(seed)
    messages = tuple(Message(("user", "assistant")[i % 2], (say(rng, words),)) for i in range(2 * num_turns))
    return Record("c", "understand", messages)


@pytest.mark.parametrize("template", ["vicuna_v1", "mistral_instruct", "genllava"])
def test_what_fits_stays(template: str) -> None:
    record = chat(3)
    found = cutter(4000, template)
    assert found.cut(record) == (record, found.count(record))
    exact = cutter(found.count(record), template)
    assert exact.cut(record)[0] == record


@pytest.mark.parametrize("template", ["vicuna_v1", "mistral_instruct", "genllava"])
def test_every_limit(template: str) -> None:
    """From hardly anything to all of it: within the limit, as long as can be, a beginning of the whole."""
    record = chat(3, words=6)
    whole = cutter(4000, template).count(record)
    said = "\n".join(str(m.contents[0]) for m in record.messages)
    asked = Record("c", "understand", (record.messages[0], Message("assistant", ("x",))), is_cut=True)
    shortest = cutter(4000, template).count(asked) - 1
    assert whole > shortest + 100
    last = 0
    for limit in range(64, whole + 1, 5):
        found = cutter(limit, template)
        if limit <= shortest:
            with pytest.raises(BadRecord, match="too long"):
                found.cut(record)
            continue
        made, tokens = found.cut(record)
        made.check()
        assert tokens == found.count(made) <= limit
        assert said.startswith("\n".join(str(m.contents[0]) for m in made.messages))
        assert made.is_cut or made == record.first(len(made.messages))
        last = max(last, tokens)
    assert whole - last < 5


def test_a_cut_answer_does_not_end() -> None:
    messages = (Message("user", ("hi",)), Message("assistant", (say(random.Random(0), 60),)))
    record = Record("c", "understand", messages)
    found = cutter(200)
    made, tokens = found.cut(record)
    assert made.is_cut
    assert 190 <= tokens <= 200
    last = made.segments(found.template)[-1]
    assert isinstance(last, Text)
    assert last.trained


def test_pictures_count_and_stay_whole() -> None:
    first = (Message("user", (Picture(0), "what is it?")), Message("assistant", ("a lamp",)))
    second = (Message("user", (Picture(1), "and this?")), Message("assistant", ("a stone",)))
    record = Record("p", "understand", first + second, ("a.jpg", "b.jpg"))
    with_first = cutter(4000).count(record.first(2))
    assert (
        with_first == cutter(4000).count(Record("p", "understand", (Message("user", ("what is it?",)), first[1]))) + 36
    )
    for limit in (with_first, with_first + 10, with_first + 36):
        made, tokens = cutter(limit).cut(record)
        assert (made, tokens) == (record.first(2), with_first)
        assert made.pictures == ("a.jpg",)


def test_a_drawing_is_never_cut() -> None:
    record = Record(
        "d", "generate", (Message("user", ("draw a lamp",)), Message("assistant", (Picture(0),))), ("a.jpg",)
    )
    whole = cutter(4000).count(record)
    assert cutter(whole).cut(record)[0] == record
    made, tokens = cutter(whole - 1).cut(record)
    assert (made.is_cut, tokens) == (True, whole - 1)
    assert Special("[EOI]", trained=True) in made.segments(cutter(64).template)
    with pytest.raises(BadRecord, match="too long"):
        cutter(whole - 2).cut(record)


def test_counted_as_the_model_reads(tmp_path: object) -> None:
    """The same tokens as the codec that training and serving share, special tokens spelled in texts included."""
    from triptych.models.text import TextCodec  # here: it loads transformers

    codec = TextCodec.load(TOKENIZER)
    record = Record("t", "understand", (Message("user", ("say </s> [SOI]",)), Message("assistant", ("<s> x",))))
    found = cutter(4000)
    ids = [codec.encode(s.text) if isinstance(s, Text) else [0] for s in record.segments(found.template)]
    assert found.count(record) == sum(map(len, ids))


def test_no_tokenizer(tmp_path: object) -> None:
    with pytest.raises(InvalidArgument, match=r"tokenizer\.json"):
        load_tokenizer(TOKENIZER / "none")
