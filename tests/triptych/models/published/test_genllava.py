"""SigLIP, Mistral and Stable Diffusion in one checkpoint give what transformers and diffusers give from their own."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, MistralForCausalLM, SiglipModel

from tests.triptych.models.published import folders
from triptych.card import folder_digest, matches, read_card, verify_digest
from triptych.errors import CheckpointError, InvalidArgument
from triptych.models.probes import decoder_probe, encoder_probe, llm_probe
from triptych.models.published.genllava import import_genllava
from triptych.models.unified import UnifiedModel
from triptych.prompts import TEMPLATES, VICUNA_SYSTEM, Message, Picture, Special, Text
from triptych.serving.probes import check_probes

KINDS = ("encoder", "llm", "decoder")
NEW_TOKENS = ["<pad>", "<image>", "[T2I]", "[I2T]", "[SOI]", *(f"[IMG{k}]" for k in range(16)), "[EOI]"]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("published")
    folders.write_siglip(folder / "siglip")
    folders.write_mistral(folder / "mistral")
    folders.write_diffusion(folder / "diffusion")
    return folder


def run(published: Path, out: Path, seed: int = 0) -> Path:
    import_genllava(published / "siglip", published / "mistral", published / "diffusion", out, seed)
    return out


@pytest.fixture(scope="module")
def checkpoint(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(published, tmp_path_factory.mktemp("imported") / "genllava")


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> UnifiedModel:
    return UnifiedModel.load(checkpoint)


@torch.no_grad()
def test_the_encoder_is_siglip(published: Path, model: UnifiedModel) -> None:
    oracle = SiglipModel.from_pretrained(str(published / "siglip"), dtype=torch.float32).eval()
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    wanted = oracle.vision_model(pixels, output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(model.encoder.encoder(pixels), wanted, rtol=0, atol=1e-5)
    assert model.encoder(pixels).shape == (2, folders.NUM_PATCHES, 48)


@torch.no_grad()
def test_the_llm_is_mistral(published: Path, model: UnifiedModel) -> None:
    oracle = MistralForCausalLM.from_pretrained(str(published / "mistral"), dtype=torch.float32).eval()
    known = oracle.config.vocab_size
    ids = torch.arange(0, known, 7)[None]
    wanted = oracle(ids, output_hidden_states=True)
    hidden = model.llm(model.llm.llm.embed(ids))
    torch.testing.assert_close(hidden, wanted.hidden_states[-1], rtol=0, atol=1e-5)
    torch.testing.assert_close(model.llm.logits(hidden)[..., :known], wanted.logits, rtol=0, atol=1e-4)


@torch.no_grad()
def test_the_decoder_is_stable_diffusion(published: Path, model: UnifiedModel) -> None:
    folder, decoder = published / "diffusion", model.decoder.decoder
    unet = UNet2DConditionModel.from_pretrained(str(folder / "unet")).eval()
    vae = AutoencoderKL.from_pretrained(str(folder / "vae")).eval()
    text = CLIPTextModel.from_pretrained(str(folder / "text_encoder")).eval()
    empty = torch.tensor([[0] + [1] * (folders.TEXT_LENGTH - 1)])  # start, end, and ends to fill the line
    null = text(empty).last_hidden_state
    assert torch.equal(model.decoder.null_conditioning, null)
    latents, timesteps = torch.randn(1, 4, 8, 8), torch.tensor([600])
    assert torch.equal(decoder(latents, timesteps, null), unet(latents, timesteps, null).sample)
    wanted = (vae.decode(latents / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    assert torch.equal(decoder.decode(latents), wanted)
    scheduler = PNDMScheduler.from_pretrained(str(folder / "scheduler"))
    assert dict(decoder.noise_scheduler().config) == dict(scheduler.config)


def test_new_tokens_have_rows_near_the_mean(published: Path, model: UnifiedModel) -> None:
    oracle = MistralForCausalLM.from_pretrained(str(published / "mistral"), dtype=torch.float32)
    known, codec = oracle.config.vocab_size, model.llm.codec
    assert [codec.special_id(token) for token in NEW_TOKENS] == list(range(known, known + len(NEW_TOKENS)))
    for found, published_rows in (
        (model.llm.llm.causal_lm.model.embed_tokens.weight, oracle.model.embed_tokens.weight),
        (model.llm.llm.causal_lm.lm_head.weight, oracle.lm_head.weight),
    ):
        assert found.shape[0] % 64 == 0
        assert found.shape[0] >= known + len(NEW_TOKENS)
        assert torch.equal(found[:known], published_rows)
        std, mean = torch.std_mean(published_rows, dim=0)
        distance = (found[known:] - mean) / std
        assert distance.abs().max() < 0.6
        assert found[known:].unique(dim=0).shape[0] == found.shape[0] - known  # no two alike


def test_plain_text_is_read_as_mistral_reads_it(published: Path, model: UnifiedModel) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(published / "mistral" / "tokenizer.json"))
    text = "Where is the red cube? 日本 [SOI]"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert model.llm.codec.encode(" " + text) == ids
    assert model.llm.codec.encode(" Where is") + model.llm.codec.encode(" the red cube? 日本 [SOI]") == ids
    assert model.llm.codec.decode(ids).strip() == text


def test_the_prompt_is_read_as_mistral_reads_it(published: Path, model: UnifiedModel) -> None:
    """Two turns, piece by piece as the checkpoint's card lays them out, are what the published tokenizer reads."""
    from tokenizers import Tokenizer

    messages = [
        Message("user", (Picture(0), "Where is the red cube?")),
        Message("assistant", ("It is on the left.",)),
        Message("user", ("draw a blue ball",)),
    ]
    ids: list[int] = []
    for segment in model.llm.template.segments(messages, ["understand", "generate"]):
        if isinstance(segment, Text):
            ids += model.llm.codec.encode(segment.text)
        elif segment == Special("</s>", trained=True):
            ids.append(model.llm.codec.special_id("</s>"))
    asked = f"{VICUNA_SYSTEM} USER: Where is the red cube? ASSISTANT: It is on the left.</s>"
    whole = Tokenizer.from_file(str(published / "mistral" / "tokenizer.json"))
    assert ids == whole.encode(f"{asked}USER: draw a blue ball ASSISTANT:", add_special_tokens=False).ids
    assert model.llm.template == TEMPLATES["genllava"]  # the name by which a mix is counted for it


def test_it_draws_and_edits(model: UnifiedModel) -> None:
    photo = Image.fromarray(np.zeros((20, 20, 3), np.uint8))
    drawn = model.respond([Message("user", ("draw a cube",))], ["generate"], [], num_inference_steps=2, max_tokens=2)
    edited = model.respond(
        [Message("user", (Picture(0), "make it blue"))], ["edit"], [photo], num_inference_steps=2, max_tokens=2
    )
    assert drawn.pictures[0].shape == edited.pictures[0].shape == (16, 16, 3)


def test_services_accept_it(checkpoint: Path, model: UnifiedModel) -> None:
    cards = {kind: read_card(checkpoint / kind) for kind in KINDS}
    probes = {
        "encoder": lambda *probe: encoder_probe(model.encoder, *probe),
        "llm": lambda *probe: llm_probe(model.llm, *probe),
        "decoder": lambda *probe: decoder_probe(model.decoder, *probe),
    }
    for kind, card in cards.items():
        verify_digest(checkpoint / kind, card)
        assert check_probes(card, checkpoint / kind, probes[kind]) > 0.9999
    assert matches(cards["encoder"].output("embeddings"), cards["llm"].input("embeddings"))
    assert matches(cards["llm"].output("hidden_states"), cards["decoder"].input("hidden_states"))
    assert cards["decoder"].facts["default_guidance_scale"] == 7.5
    system = json.loads((checkpoint / "system.json").read_text())
    assert system["digests"] == {kind: card.digest for kind, card in cards.items()}
    assert system["made_by"] == {"recipe": "triptych import genllava", "seed": 0}


def test_same_seed_same_checkpoint(published: Path, checkpoint: Path, tmp_path: Path) -> None:
    assert folder_digest(run(published, tmp_path / "again")) == folder_digest(checkpoint)
    other = run(published, tmp_path / "other", seed=1)
    for kind, port in (("encoder", "embeddings"), ("llm", "hidden_states")):
        ours, theirs = read_card(checkpoint / kind).output(port), read_card(other / kind).output(port)
        assert not matches(theirs, ours)


def test_what_exists_is_left_alone(published: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(InvalidArgument, match="out exists already"):
        run(published, tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*.*")] == ["mine.txt"]
    with pytest.raises(InvalidArgument, match="no/where is not a folder"):
        run(published, tmp_path / "no" / "where" / "out")


@pytest.mark.parametrize("missing", ["siglip", "mistral", "diffusion"])
def test_a_missing_folder_is_named(published: Path, tmp_path: Path, missing: str) -> None:
    sources = [
        tmp_path / "gone" if name == missing else published / name for name in ("siglip", "mistral", "diffusion")
    ]
    with pytest.raises(CheckpointError, match=r"(vision|llm|diffusion): .*/gone is not a folder"):
        import_genllava(*sources, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_wrong_kind_of_model_is_named(published: Path, tmp_path: Path) -> None:
    siglip, mistral, diffusion = (published / name for name in ("siglip", "mistral", "diffusion"))
    with pytest.raises(
        CheckpointError, match=r"config.json: model_type of the vision tower: unknown encoder 'mistral'"
    ):
        import_genllava(mistral, mistral, diffusion, tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"config.json: model_type of the language model: unknown llm 'siglip'"):
        import_genllava(siglip, siglip, diffusion, tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"unet/config.json is missing"):
        import_genllava(siglip, mistral, mistral, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
