"""Records: there and back as JSON, checked, shortened, laid out."""

import json
from dataclasses import replace

import pytest

from services.trainer.data.records import BadRecord, Record
from triptych.prompts import ImageSlot, Message, Picture, PromptTemplate, Special

RECORD = Record(
    "7",
    "understand",
    (
        Message("user", (Picture(0), "what is <image>?")),
        Message("assistant", ("a tag",)),
        Message("user", ("like", Picture(1))),
        Message("assistant", ("no",)),
    ),
    ("a.jpg", "b.png"),
    ("added",),
)


@pytest.mark.parametrize("record", [RECORD, replace(RECORD, is_cut=True, added=())])
def test_round_trip(record: Record) -> None:
    assert Record.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_a_good_record_is_good() -> None:
    RECORD.check()
    assert RECORD.first(2).pictures == ("a.jpg",)
    RECORD.first(2).check()
    assert RECORD.first(4) == RECORD


@pytest.mark.parametrize(
    ("messages", "pictures", "reason"),
    [
        (RECORD.messages, ("a.jpg",), "placeholders do not match pictures"),
        (RECORD.messages[::-1], RECORD.pictures, "turns out of order"),
        (RECORD.messages[:3], RECORD.pictures, "turns out of order"),
        ((), (), "no conversation"),
        ((Message("user", ("a",)), Message("assistant", ())), (), "empty text"),
        ((Message("user", ("\udc00",)), Message("assistant", ("b",))), (), "malformed"),
    ],
)
def test_bad_records(messages: tuple[Message, ...], pictures: tuple[str, ...], reason: str) -> None:
    with pytest.raises(BadRecord) as caught:
        replace(RECORD, messages=messages, pictures=pictures).check()
    assert caught.value.reason == reason


def test_segments() -> None:
    template = PromptTemplate(task_token_position="user_turn")
    segments = RECORD.segments(template)
    assert [s.index for s in segments if isinstance(s, ImageSlot)] == [0, 1]
    assert segments.count(Special("[I2T]")) == 2
    assert segments[-1] == Special("</s>", trained=True)
    assert replace(RECORD, is_cut=True).segments(template) == segments[:-1]
