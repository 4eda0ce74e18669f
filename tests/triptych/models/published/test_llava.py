"""LLaVA-1.5 as published is transformers' LlavaForConditionalGeneration after the import too."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import LlavaForConditionalGeneration

from tests.triptych.models.published import folders
from triptych.card import folder_digest, matches, read_card, verify_digest
from triptych.errors import CheckpointError
from triptych.models.encoder_stage import EncoderStage
from triptych.models.llm_stage import LlmStage
from triptych.models.probes import encoder_probe, llm_probe
from triptych.models.published.llava import import_llava
from triptych.models.unified import generate
from triptych.prompts import Message, Picture, Special, Text
from triptych.serving.probes import check_probes

QUESTION = "Where is the red cube?"
MAX_TOKENS = 12


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("published")
    folders.write_llava(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("imported") / "llava"
    import_llava(published, out)
    return out


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))


def oracle_ids(published: Path) -> list[int]:
    """The prompt in the words of the model's authors, as its own tokenizer reads it."""
    tokenizer = Tokenizer.from_file(str(published / "tokenizer.json"))
    ids = tokenizer.encode(f"USER: <image>\n{QUESTION} ASSISTANT:", add_special_tokens=False).ids
    image_id = tokenizer.token_to_id("<image>")
    assert ids.count(image_id) == 1
    at = ids.index(image_id)
    return [tokenizer.token_to_id("<s>"), *ids[:at], *[image_id] * folders.NUM_PATCHES, *ids[at + 1 :]]


def test_the_prompt_is_the_authors(published: Path, checkpoint: Path) -> None:
    stage = LlmStage.load(checkpoint / "llm")
    segments = stage.template.segments([Message("user", (QUESTION, Picture(0)))], ["understand"])
    image_id = stage.codec.special_id("<image>")
    ids: list[int] = []
    for segment in segments:
        if isinstance(segment, Special):
            ids.append(stage.codec.special_id(segment.token))
        elif isinstance(segment, Text):
            ids += stage.codec.encode(segment.text)
        else:
            ids += [image_id] * folders.NUM_PATCHES
    assert ids == oracle_ids(published)


@torch.no_grad()
def test_same_logits_and_tokens(published: Path, checkpoint: Path) -> None:
    oracle = LlavaForConditionalGeneration.from_pretrained(str(published), dtype=torch.float32).eval()
    encoder, llm = EncoderStage.load(checkpoint / "encoder"), LlmStage.load(checkpoint / "llm")
    pixels = encoder.preprocess([picture()])
    ids = torch.tensor([oracle_ids(published)])
    wanted = oracle(input_ids=ids, pixel_values=pixels, output_hidden_states=True)
    segments = llm.template.segments([Message("user", (QUESTION, Picture(0)))], ["understand"])
    prompt = llm.embed(segments, list(encoder(pixels)))
    hidden = llm(prompt)
    num_known = Tokenizer.from_file(str(published / "tokenizer.json")).get_vocab_size()
    torch.testing.assert_close(hidden, wanted.hidden_states[-1], rtol=0, atol=1e-4)
    torch.testing.assert_close(llm.logits(hidden)[..., :num_known], wanted.logits[..., :num_known], rtol=0, atol=1e-4)
    generated = oracle.generate(
        input_ids=ids,
        pixel_values=pixels,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=MAX_TOKENS,
        do_sample=False,
        suppress_tokens=[*llm.banned_ids("forbid", 0), *range(num_known, wanted.logits.shape[-1])],
        eos_token_id=llm.eos_id,
        pad_token_id=0,
    )[0, ids.shape[1] :].tolist()
    reply, _ = generate(llm, prompt, "forbid", MAX_TOKENS)
    assert reply.token_ids == generated
    assert len(set(generated)) > 3  # no trivial loop


Rewrite = Callable[[dict[str, torch.Tensor], Path], None]


def as_bin(state: dict[str, torch.Tensor], folder: Path) -> None:
    torch.save(state, folder / "pytorch_model.bin")


def as_bin_shards(state: dict[str, torch.Tensor], folder: Path) -> None:
    keys = list(state)
    shards = {"pytorch_model-00001-of-00002.bin": keys[::2], "pytorch_model-00002-of-00002.bin": keys[1::2]}
    for name, part in shards.items():
        torch.save({key: state[key] for key in part}, folder / name)
    weight_map = {key: name for name, part in shards.items() for key in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def as_transformers_4(state: dict[str, torch.Tensor], folder: Path) -> None:
    renamed = {key.replace("vision_tower.", "vision_tower.vision_model."): value for key, value in state.items()}
    renamed["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    renamed["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(6)
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})


def as_transformers_5(state: dict[str, torch.Tensor], folder: Path) -> None:
    prefixes = {
        "language_model.lm_head.": "lm_head.",
        "language_model.model.": "model.language_model.",
        "vision_tower.": "model.vision_tower.",
        "multi_modal_projector.": "model.multi_modal_projector.",
    }
    renamed = {
        next(new + key.removeprefix(old) for old, new in prefixes.items() if key.startswith(old)): value
        for key, value in state.items()
    }
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("rewrite", [as_bin, as_bin_shards, as_transformers_4, as_transformers_5])
def test_other_spellings_and_files(published: Path, checkpoint: Path, tmp_path: Path, rewrite: Rewrite) -> None:
    folder = shutil.copytree(published, tmp_path / "published")
    (folder / "model.safetensors").unlink()
    rewrite(load_file(published / "model.safetensors"), folder)
    import_llava(folder, tmp_path / "out")
    assert folder_digest(tmp_path / "out") == folder_digest(checkpoint)


def test_shards(published: Path, checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(published, tmp_path / "published")
    (folder / "model.safetensors").unlink()
    LlavaForConditionalGeneration.from_pretrained(str(published)).save_pretrained(str(folder), max_shard_size="60KB")
    shutil.copy(published / "config.json", folder)  # written anew, it says its precision once more for each part
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2
    import_llava(folder, tmp_path / "out")
    assert folder_digest(tmp_path / "out") == folder_digest(checkpoint)


def test_preprocessing_in_the_file_of_transformers_5(published: Path, checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(published, tmp_path / "published")
    values = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": values}))
    import_llava(folder, tmp_path / "out")
    assert folder_digest(tmp_path / "out") == folder_digest(checkpoint)


BAD_CONFIGS: dict[str, tuple[dict[str, object], str]] = {
    "another model": ({"model_type": "llava_next"}, r"config.json: model_type is 'llava_next', must be 'llava'"),
    "another projector": ({"projector_hidden_act": "relu"}, "projector_hidden_act is 'relu', must be 'gelu'"),
    "with the class token": ({"vision_feature_select_strategy": "full"}, "strategy is 'full' with 'clip_vision_model'"),
    "no text model": ({"text_config": None}, "config.json: no 'text_config'"),
    "several strategies": ({"vision_feature_select_strategy": ["default"]}, r"strategy is \['default'\]"),
    "several layers": ({"vision_feature_layer": [-2, -5]}, r"vision_feature_layer is \[-2, -5\], must be one number"),
    "too deep": ({"vision_feature_layer": -9}, "feature_layer -9: out of -4..-1"),
    "of no shape": ({"text_config": {"model_type": "llama", "hidden_size": "x"}}, "config.json: .*hidden_size"),
    "larger": (
        {"text_config": {**folders.LLM_SIZES, "num_hidden_layers": 3, "vocab_size": 362}},
        r"published: missing: llm.model.layers.2.self_attn.q_proj.weight, .* and 1 more$",
    ),
    "tied": ({"text_config": {"tie_word_embeddings": True}}, "tie_word_embeddings is true"),
    "too few rows": ({"text_config": {**folders.LLM_SIZES, "vocab_size": 7}}, r"is \(362, 48\), must be \(7, 48\)"),
}


@pytest.mark.parametrize(("changes", "message"), BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_what_is_no_llava_is_named(published: Path, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    folder = shutil.copytree(published, tmp_path / "published")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | changes))
    with pytest.raises(CheckpointError, match=message):
        import_llava(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_missing_file_is_named(published: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(published, tmp_path / "published")
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        import_llava(folder, tmp_path / "out")


def test_nothing_is_left_of_a_failure_on_the_way(published: Path, tmp_path: Path) -> None:
    """Weights that give NaN are found by the probes, when most has been written."""
    folder = shutil.copytree(published, tmp_path / "published")
    state = load_file(folder / "model.safetensors")
    state["language_model.model.norm.weight"][3] = torch.nan
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"llm: its weights give no finite numbers for embeddings/out"):
        import_llava(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_services_accept_it(checkpoint: Path) -> None:
    encoder, llm = (read_card(checkpoint / kind) for kind in ("encoder", "llm"))
    for card in (encoder, llm):
        verify_digest(checkpoint / card.kind, card)
    assert matches(encoder.output("embeddings"), llm.input("embeddings"))
    assert llm.facts["handover"] == "none"
    assert not (checkpoint / "decoder").exists()
    seeing, speaking = EncoderStage.load(checkpoint / "encoder"), LlmStage.load(checkpoint / "llm")
    assert check_probes(encoder, checkpoint / "encoder", lambda *probe: encoder_probe(seeing, *probe)) > 0.9999
    assert check_probes(llm, checkpoint / "llm", lambda *probe: llm_probe(speaking, *probe)) > 0.9999
