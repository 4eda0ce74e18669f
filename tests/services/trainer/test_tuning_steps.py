"""Spaces after tuning: kept where one side learned against the other, frozen one; new otherwise."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.trainer.tuning_steps import spaces
from tests.services.trainer.tuned import recipe

OLD = {"llm_input": "old/llm-input@1", "img": "old/img@2"}
UNDERSTAND, DRAW = {"tasks": ["understand"]}, {"tasks": ["generate"]}


@pytest.mark.parametrize(
    ("stages", "kept"),
    [
        ([{"train": ["projector", "llm", "head"]}], set()),
        ([{"train": ["projector", "head"]}], {"llm_input", "img"}),
        ([{"train": ["projector"]}], {"llm_input", "img"}),
        ([{"train": ["llm"]}], {"llm_input", "img"}),
        ([{"train": ["tokens"]}], {"llm_input", "img"}),
        ([{"train": ["head", "tokens"]}], {"llm_input"}),
        ([{"train": ["llm"], **UNDERSTAND}], {"llm_input"}),
        ([{"train": ["llm"], **DRAW}], {"img"}),
        ([{"train": ["llm"], "generation_weight": 0.0}], {"llm_input"}),
        ([{"train": ["llm"], **UNDERSTAND}, {"train": ["llm"]}], {"llm_input", "img"}),
        ([{"train": ["projector"], **UNDERSTAND}, {"train": ["llm", "head"], **DRAW}], set()),
    ],
)
def test_spaces(tmp_path: Path, stages: list[dict[str, Any]], kept: set[str]) -> None:
    (tmp_path / "genllava").mkdir()
    (tmp_path / "genllava" / "system.json").write_text(json.dumps({"spaces": OLD}))
    named = [{"name": f"stage-{number}", **stage} for number, stage in enumerate(stages)]
    found = spaces(recipe(tmp_path, *named), "0123")
    assert {key for key, value in OLD.items() if getattr(found, key) == value} == kept
    assert all(getattr(found, key).startswith("tiny/") for key in OLD if key not in kept)
