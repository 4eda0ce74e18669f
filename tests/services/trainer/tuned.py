"""What tuning starts from, at the smallest size: an imported checkpoint, and a mix prepared for it."""

from pathlib import Path
from typing import Any

import torch

from services.trainer.data.folder import MixFolder
from services.trainer.data.mix import Mix
from services.trainer.tuning import TuningRecipe
from tests.services.trainer.data import published
from tests.services.trainer.data.conftest import make_mix
from tests.triptych.models.published import folders
from triptych.card import read_card, write_card
from triptych.models.heads.query_transformer import QueryTransformer
from triptych.models.published.genllava import import_genllava
from triptych.models.published.llava import import_llava

STAGE: dict[str, Any] = {
    "name": "all",
    "train": ["projector", "llm", "head"],
    "steps": 2,
    "batch_size": 4,
    "learning_rate": 1e-3,
}
LORA: dict[str, Any] = {"rank": 4, "alpha": 8, "dropout": 0.0}


def write_bases(root: Path) -> Path:
    """`root/genllava` and `root/llava`, as `triptych import` writes them."""
    torch.set_num_threads(1)
    folders.write_siglip(root / "siglip")
    folders.write_mistral(root / "mistral")
    folders.write_diffusion(root / "diffusion")
    folders.write_llava(root / "llava-hf")
    import_genllava(root / "siglip", root / "mistral", root / "diffusion", root / "genllava")
    import_llava(root / "llava-hf", root / "llava")
    _shrink_head(root / "genllava" / "decoder")
    return root


def _shrink_head(folder: Path) -> None:
    """An import's head has the paper's size, 32 million parameters: most of the time of a tiny model's steps."""
    torch.manual_seed(5)
    sizes = {"hidden_size": 16, "num_heads": 2, "num_layers": 1, "intermediate_size": 32}
    config = QueryTransformer.Config(
        input_size=folders.LLM_SIZES["hidden_size"], output_size=16, num_queries=folders.TEXT_LENGTH, **sizes
    )
    QueryTransformer(config).save(folder / "head")
    write_card(folder, read_card(folder))


def write_mix(root: Path, base: Path, num: int = 6) -> Path:
    """`root/mix`: some of every kind, cut and counted for the base's LLM."""
    made = {
        "sharegpt": ("language", published.write_sharegpt(root, num, 8)),
        "ip2p": ("editing", published.write_instructpix2pix(root, num)),
        "pretrain": ("generation", published.write_captions(root, num)),
        "llava": ("understanding", published.write_llava(root, 2 * num)),
    }
    mix = Mix.model_validate(
        {
            "name": "tiny",
            "shares": {"language": 15, "editing": 20, "generation": 25, "understanding": 40},
            "sources": [{"name": name, "group": group, **source} for name, (group, source) in made.items()],
            "length": {
                "tokenizer": str(base / "llm"),
                "num_image_tokens": folders.NUM_PATCHES,
                "max_tokens": folders.LLM_SIZES["max_position_embeddings"],
                "template": "genllava",
            },
            "samples_per_shard": 7,
        }
    )
    MixFolder.begin(mix, root / "mix", root)
    make_mix(root / "mix")
    return root / "mix"


def recipe(root: Path, *stages: dict[str, Any], base: str = "genllava", **changed: Any) -> TuningRecipe:
    """Over what `write_bases` and `write_mix` left in `root`; each of `stages` changes `STAGE`."""
    values: dict[str, Any] = {
        "name": "tiny",
        "out": str(root / "out"),
        "base": str(root / base),
        "data": str(root / "mix"),
        "held_out": 4,
        "distribution": {"device": "cpu", "precision": "f32"},
        "stages": [{**STAGE, **stage} for stage in stages or ({},)],
        "checkpoint": {"version": "0.0.1", "weights": "f32"},
    }
    return TuningRecipe.model_validate({**values, **changed})
