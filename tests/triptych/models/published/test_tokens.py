"""Published tokenizers with our tokens behind theirs: pieces of a prompt are read as the whole would be."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from tests.triptych.models.published import folders
from triptych.errors import CheckpointError
from triptych.models.published.stored import StoredTensor
from triptych.models.published.tokens import grown, num_rows, read_tokenizer
from triptych.models.text import TextCodec
from triptych.prompts import PromptTemplate

TEMPLATE = PromptTemplate(num_img_tokens=2)
TEXT = "Where is the red cube? USER: draw a blue ball  twice\nnaïve 日本"
OURS = ["<pad>", "<image>", "[T2I]", "[I2T]", "[SOI]", "[IMG0]", "[IMG1]", "[EOI]"]


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def as_metaspace(folder: Path) -> None:
    """The same tokenizer in the newer of its two forms."""
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    rewrite(folder / "tokenizer.json", normalizer=None, pre_tokenizer=metaspace)


@pytest.mark.parametrize("has_metaspace", [False, True])
def test_pieces_are_the_whole(tmp_path: Path, has_metaspace: bool) -> None:
    folders.write_tokenizer(tmp_path)
    if has_metaspace:
        as_metaspace(tmp_path)
    wanted = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(TEXT, add_special_tokens=False).ids
    codec = read_tokenizer(tmp_path, TEMPLATE).codec
    pieces = [" Where is the", " red cube?", " USER:", " draw a blue ball ", " twice\nnaïve 日本"]
    assert "".join(pieces) == " " + TEXT
    assert [id_ for piece in pieces for id_ in codec.encode(piece)] == wanted
    codec.save(tmp_path / "saved")
    assert TextCodec.load(tmp_path / "saved").encode(" " + TEXT) == wanted


def test_ours_come_last_in_order(tmp_path: Path) -> None:
    known = folders.write_tokenizer(tmp_path)
    found = read_tokenizer(tmp_path, TEMPLATE)
    assert (found.num_known, found.num_tokens) == (known, known + len(OURS))
    assert [found.codec.special_id(token) for token in OURS] == list(range(known, known + len(OURS)))
    assert found.codec.encode("[SOI]") != [found.codec.special_id("[SOI]")]


def test_what_is_there_keeps_its_place(tmp_path: Path) -> None:
    known = folders.write_tokenizer(tmp_path, "<image>", "<pad>")
    found = read_tokenizer(tmp_path, TEMPLATE)
    assert [found.codec.special_id(token) for token in ("<image>", "<pad>")] == [known - 2, known - 1]
    assert found.num_tokens == known + len(OURS) - 2
    assert found.codec.tokenizer.pad_token == "<pad>"


def test_rows(tmp_path: Path) -> None:
    known = folders.write_tokenizer(tmp_path)
    found = read_tokenizer(tmp_path, TEMPLATE)
    assert num_rows(found, known, "here") % 64 == 0
    assert num_rows(found, known, "here") >= known + len(OURS)
    assert num_rows(found, known + 100, "here") == known + 100
    with pytest.raises(CheckpointError, match=f"here: {known} tokens, but only {known - 1} rows"):
        num_rows(found, known - 1, "here")


def test_grown_rows() -> None:
    table = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    stored = StoredTensor(table.dtype, (50, 8), lambda: table)
    first, again, other = (grown(stored, 40, 64, seed).read() for seed in (0, 0, 1))
    assert (first.shape, first.dtype) == ((64, 8), torch.bfloat16)
    assert torch.equal(first[:40], table[:40])
    assert torch.equal(first, again)
    assert not torch.equal(first[40:], other[40:])
    std, mean = torch.std_mean(table[:40].float(), dim=0)
    assert ((first[40:].float() - mean) / std).abs().max() < 0.6


def test_another_beginning_of_text_is_named(tmp_path: Path) -> None:
    folders.write_tokenizer(tmp_path)
    rewrite(tmp_path / "tokenizer_config.json", bos_token="<|begin|>")
    with pytest.raises(CheckpointError, match=r"tokenizer_config.json: bos_token is '<\|begin\|>', must be '<s>'"):
        read_tokenizer(tmp_path, TEMPLATE)


@pytest.mark.parametrize(
    "changes", [{"model": {"type": "Unknown"}}, {"added_tokens": None}, {"added_tokens": ["<s>"]}], ids=str
)
def test_a_broken_tokenizer_is_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    folders.write_tokenizer(tmp_path)
    rewrite(tmp_path / "tokenizer.json", **changes)
    with pytest.raises(CheckpointError, match="tokenizer.json: "):
        read_tokenizer(tmp_path, TEMPLATE)
