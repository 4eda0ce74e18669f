"""What is written is what services load: whole, sealed, atomic."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from triptych.card import matches, read_card, verify_digest
from triptych.errors import InvalidArgument
from triptych.models.base import read_weights
from triptych.models.cards import Spaces
from triptych.models.checkpoint import write_checkpoint
from triptych.models.heads.query_transformer import QueryTransformer
from triptych.models.unified import UnifiedModel
from triptych.prompts import Message

KINDS = ("encoder", "llm", "decoder")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tiny.write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


def test_cards(checkpoint: Path) -> None:
    encoder, llm, decoder = cards = [read_card(checkpoint / kind) for kind in KINDS]
    for card in cards:
        verify_digest(checkpoint / card.kind, card)
    assert matches(encoder.output("embeddings"), llm.input("embeddings"))
    assert matches(llm.output("hidden_states"), decoder.input("hidden_states"))
    assert encoder.output("embeddings").shape == (tiny.NUM_IMAGE_TOKENS, tiny.HIDDEN_SIZE)
    assert llm.output("hidden_states").shape == (tiny.NUM_IMG_TOKENS, tiny.HIDDEN_SIZE)
    assert (llm.facts["max_model_len"], llm.facts["handover"]) == (tiny.MAX_MODEL_LEN, "once")
    assert (decoder.facts["width"], decoder.facts["max_num_inference_steps"]) == (16, 50)
    system = json.loads((checkpoint / "system.json").read_text())
    assert system["digests"] == {card.kind: card.digest for card in cards}


def test_spaces_are_the_run_s() -> None:
    spaces = Spaces.of_run("tiny", "0")
    assert spaces == Spaces.of_run("tiny", "0")
    other = Spaces.of_run("tiny", "1")
    assert len({spaces.llm_input, spaces.img, other.llm_input, other.img}) == 4
    name, _, digits = spaces.llm_input.partition("@")
    assert (name, len(digits), int(digits, 16) >= 0) == ("tiny/llm-input", 12, True)


def test_loads_and_answers(checkpoint: Path) -> None:
    model = UnifiedModel.load(checkpoint)
    reply = model.respond([Message("user", ("draw a cube",))], ["generate"], [], num_inference_steps=2, max_tokens=4)
    assert reply.pictures[0].shape == (16, 16, 3)


def test_same_weights_come_back(tmp_path: Path) -> None:
    torch.manual_seed(3)
    encoder, llm, decoder = tiny.tiny_encoder(), tiny.tiny_llm(), tiny.tiny_decoder()
    write_checkpoint(
        tmp_path / "c",
        encoder,
        llm,
        decoder,
        name="tiny",
        version="2.0.0",
        spaces=Spaces.of_run("tiny", "3"),
        made_by={},
        dtype=torch.float32,
    )
    loaded = UnifiedModel.load(tmp_path / "c")
    for ours, theirs in ((encoder, loaded.encoder), (llm, loaded.llm), (decoder, loaded.decoder)):
        state = theirs.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in ours.state_dict().items())
    assert llm.codec.encode(" naïve [SOI]") == loaded.llm.codec.encode(" naïve [SOI]")


def test_bf16_is_stored_and_probed_as_stored(tmp_path: Path) -> None:
    folder = tiny.write_tiny_checkpoint(tmp_path / "tiny", dtype=torch.bfloat16)
    from safetensors.torch import load_file

    stored = load_file(folder / "decoder" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    weights = read_weights(folder / "encoder" / "projector" / "model.safetensors")
    assert np.array_equal(weights["linear_1.bias"], weights["linear_1.bias"].bfloat16().float())


def test_replaces_an_older_one_whole(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    tiny.write_tiny_checkpoint(folder, version="1.0.0")
    (folder / "stray").write_text("")
    tiny.write_tiny_checkpoint(folder, version="1.0.1", seed=1)
    assert read_card(folder / "llm").version == "1.0.1"
    assert sorted(path.name for path in folder.iterdir()) == ["decoder", "encoder", "llm", "system.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_failure_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.write_tiny_checkpoint(tmp_path / "tiny")
    before = read_card(folder / "llm").digest

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("triptych.models.cards.make_decoder_probes", full)
    with pytest.raises(OSError, match="no space"):
        tiny.write_tiny_checkpoint(folder, seed=1)
    assert read_card(folder / "llm").digest == before
    UnifiedModel.load(folder)


def test_stages_that_do_not_fit(tmp_path: Path) -> None:
    decoder = tiny.tiny_decoder()
    decoder.head = QueryTransformer(QueryTransformer.Config(input_size=48, hidden_size=16, num_layers=1))
    with pytest.raises(InvalidArgument, match="the head's input_size is 48, must be the LLM's hidden_size 32"):
        write_checkpoint(
            tmp_path / "c",
            tiny.tiny_encoder(),
            tiny.tiny_llm(),
            decoder,
            name="tiny",
            version="1",
            spaces=Spaces("a", "b"),
            made_by={},
        )
    assert not list(tmp_path.iterdir())
