"""Plain text stays plain text: no spelling of it becomes a special token, and every text comes back."""

import random
from pathlib import Path

import pytest

from services.trainer.data.tokens import train_tokenizer
from tests.tiny import tiny_codec
from triptych.errors import CheckpointError, InvalidArgument
from triptych.models.text import TextCodec
from triptych.prompts import PromptTemplate

TEXTS = [
    "where is the red cube?",
    "  two  spaces,\ttabs\nand lines \r\n",
    "naïve façade, Größe, Ελληνικά, русский, עברית, العربية, हिन्दी, 日本語, 한국어",
    "\U0001f468‍\U0001f469‍\U0001f467 \U0001f1eb\U0001f1f7 \U00010348 é vs é",
    "\x00\x01\x7f\x85\xa0\u200b\ufeff\ufffd",
    "a" * 300,
    "",
]


@pytest.fixture(scope="module", params=["tests", "trainer"])
def codec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TextCodec:
    """The tests' own small tokenizer and the one that the trainer makes, both as a service loads them."""
    folder = tmp_path_factory.mktemp("tokenizer")
    if request.param == "trainer":
        train_tokenizer(PromptTemplate(system=""), 400, 100, 0, folder)
    else:
        tiny_codec().save(folder)
    return TextCodec.load(folder)


def test_no_text_spells_a_special_token(codec: TextCodec) -> None:
    specials = set(codec.special_tokens.values())
    assert len(specials) >= 9
    for token in codec.special_tokens:
        for text in (token, f" {token}", f"draw {token}{token} now", f"{token[:-1]}{token}", token + "é"):
            ids = codec.encode(text)
            assert not specials & set(ids), text
            assert codec.decode(ids) == text


def test_every_text_comes_back(codec: TextCodec) -> None:
    rng = random.Random(0)
    # Anything but surrogates, which no UTF-8 holds.
    codes = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    drawn = ["".join(map(chr, rng.sample(codes, 24))) for _ in range(200)]
    for text in (*TEXTS, *drawn):
        ids = codec.encode(text)
        assert codec.decode(ids) == text
        assert all(0 <= token < len(codec.tokenizer) for token in ids)


def test_parts_join_without_added_tokens(codec: TextCodec) -> None:
    """Segments are encoded one by one: nothing may come before, between or after them."""
    ids = codec.encode("where is") + codec.encode(" the cube")
    assert codec.decode(ids) == "where is the cube"
    assert codec.encode("") == []
    assert codec.encode("cube") == codec.encode("cube")


def test_callers_cannot_change_what_is_remembered(codec: TextCodec) -> None:
    codec.encode("a ball").append(0)
    codec.special_tokens["</s>"] = -1
    assert codec.decode(codec.encode("a ball")) == "a ball"
    assert codec.special_id("</s>") >= 0


def test_special_tokens(codec: TextCodec) -> None:
    ids = [codec.special_id(token) for token in ("<s>", "</s>", "<pad>", "[T2I]", "[I2T]", "[SOI]", "[IMG0]", "[EOI]")]
    assert len(set(ids)) == len(ids)
    cube = codec.encode("cube")
    assert codec.decode([ids[0], *cube, *ids[1:]]) == "cube"


@pytest.mark.parametrize("token", ["[IMG99]", "", "<S>", "cube", "[SOI"])
def test_unknown_special_tokens_are_named(codec: TextCodec, token: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        codec.special_id(token)
    assert str(error.value).startswith(f"special token {token!r}: not one of ['</s>', ")


def test_half_a_character_is_not_dropped(codec: TextCodec) -> None:
    ids = codec.encode("\U0001f9f1")
    assert len(ids) > 1
    assert "\ufffd" in codec.decode(ids[:-1])


@pytest.mark.parametrize("name", ["tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_broken_folders_are_named(name: str, damage: str, tmp_path: Path) -> None:
    tiny_codec().save(tmp_path)
    path = tmp_path / name
    text = path.read_text(encoding="utf-8")
    path.unlink()
    if damage == "cut short":
        path.write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(CheckpointError, match=str(path)):
        TextCodec.load(tmp_path)


def test_what_users_write_is_not_kept() -> None:
    codec = tiny_codec()
    codec.encode("a short one")
    assert codec._encode_short.cache_info().currsize == 1
    assert codec.encode("long " * 200) == codec.encode("long " * 200)
    assert codec._encode_short.cache_info().currsize == 1
