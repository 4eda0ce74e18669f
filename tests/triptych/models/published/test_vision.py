"""A vision tower's config that cannot be used is named."""

import json
from pathlib import Path

import pytest

from tests.triptych.models.published import folders
from triptych.errors import CheckpointError
from triptych.models.published.vision import PublishedVision, empty_tower

WHERE = Path("siglip/config.json")
SIGLIP = {"model_type": "siglip_vision_model", **folders.SIZES, "image_size": 32, "patch_size": 16}


UNUSABLE: list[dict[str, object]] = [{"hidden_act": "nonsense"}, {"patch_size": 0}, {"num_attention_heads": 0}]


@pytest.mark.parametrize("changes", UNUSABLE, ids=str)
def test_what_cannot_be_used_is_named(changes: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match=r"^siglip/config\.json: "):
        empty_tower(SIGLIP | changes, WHERE)


def test_the_publishers_attention_is_not_ours() -> None:
    assert empty_tower(SIGLIP | {"attn_implementation": "flash_attention_2"}, WHERE).embed_dim == 32


@pytest.mark.parametrize("part", [None, [], "siglip"])
def test_a_pair_without_its_vision_tower_is_named(tmp_path: Path, part: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip", "vision_config": part}))
    with pytest.raises(CheckpointError, match=r"config\.json: no 'vision_config'"):
        PublishedVision.open(tmp_path)
