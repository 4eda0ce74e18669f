"""Bytes stand for tokens: every character of more than one byte arrives in halves."""

import pytest

from services.llm.detokenizer import Detokenizer


def decode(ids: list[int]) -> str:
    return bytes(ids).decode(errors="replace")


def stream(text: str | bytes, *stop: str) -> tuple[list[str], Detokenizer]:
    detokenizer = Detokenizer(decode, stop)
    parts = []
    for byte in text.encode() if isinstance(text, str) else text:
        parts += detokenizer.add(byte)
        if detokenizer.is_stopped:
            break
    parts += detokenizer.end()
    return [delta.text for delta in parts], detokenizer


@pytest.mark.parametrize("text", ["a cube", "naïve 日本 🎈!", "line\n\nline", " é"])
def test_all_of_it_and_never_half_a_character(text: str) -> None:
    parts, _ = stream(text)
    assert "".join(parts) == text.strip()
    assert not any("\ufffd" in part for part in parts)


def test_white_space_at_the_ends_goes() -> None:
    assert "".join(stream("  a b \n")[0]) == "a b"
    assert stream(" \n ")[0] == []


def test_broken_bytes_are_replaced_once_they_are_certain() -> None:
    assert "".join(stream(b"a\xffb\xe6")[0]) == "a\ufffdb\ufffd"


@pytest.mark.parametrize(
    ("text", "told"), [("one END two", "one"), ("EN E ENDED", "EN E"), ("no stop EN", "no stop EN")]
)
def test_stop_string_is_never_shown(text: str, told: str) -> None:
    parts, detokenizer = stream(text, "END", "XYZ")
    assert "".join(parts) == told
    assert detokenizer.is_stopped == ("END" in text)
    for length in range(1, len(parts)):
        assert not "".join(parts[:length]).endswith(("E", "EN")) or told.startswith("EN")


def test_white_space_may_be_a_stop_string() -> None:
    assert "".join(stream("one\n\ntwo", "\n\n")[0]) == "one"


def test_ids_travel_with_their_text() -> None:
    detokenizer = Detokenizer(decode, ("END",))
    deltas = [delta for byte in b"a \xc3\xa9E!" for delta in detokenizer.add(byte)] + detokenizer.end()
    assert [(delta.text, bytes(delta.token_ids)) for delta in deltas] == [
        ("a", b"a"),
        (" é", b" \xc3\xa9"),
        ("E!", b"E!"),
    ]


def test_a_picture_ends_doubt() -> None:
    detokenizer = Detokenizer(decode, ("END",))
    parts = [delta.text for byte in b"a EN" for delta in detokenizer.add(byte)]
    assert "".join(parts) == "a"
    assert [delta.text for delta in detokenizer.pause()] == [" EN"]


def test_white_space_before_a_picture_begins_no_stop_string() -> None:
    detokenizer = Detokenizer(decode, ("\n\n",))
    parts = [delta.text for byte in b"a\n" for delta in detokenizer.add(byte)]
    parts += [delta.text for delta in detokenizer.pause()]
    parts += [delta.text for byte in b"\nb\n\nc" if not detokenizer.is_stopped for delta in detokenizer.add(byte)]
    assert "".join(parts) == "a\n\nb"
    assert detokenizer.is_stopped


def test_a_stop_string_in_the_token_of_an_unfinished_character() -> None:
    tokens = [b"one", b" END\xe2\x80", b"\x9d"]
    spelled = Detokenizer(lambda ids: decode([byte for token in ids for byte in tokens[token]]), ("END",))
    parts = [delta.text for token in (0, 1) for delta in spelled.add(token)] + [d.text for d in spelled.end()]
    assert "".join(parts) == "one"
    assert spelled.is_stopped
