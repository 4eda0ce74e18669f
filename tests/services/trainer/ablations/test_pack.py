"""Parts of a base run that ship with its tables."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from services.trainer.ablations import parts
from services.trainer.ablations.pack import main, pack
from services.trainer.ablations.phase import PhaseObjective
from services.trainer.ablations.table import Table
from services.trainer.config import Recipe
from services.trainer.done import done_digest
from services.trainer.stages import digest
from tests.services.trainer.ablations.tiny_tables import NAMES, ROOT, TABLES, finish_base_run, write_tables
from triptych.errors import FailedPrecondition, InvalidArgument

NEEDED = ("tokenizer", "vae_decoder", "unet", "understanding")
MAX_BYTES = 25 * 10**6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables, the base run that they need, and `packed`, made of it."""
    made = tmp_path_factory.mktemp("packed")
    write_tables(made)
    finish_base_run(made)
    assert main([str(made / "order.toml"), "-o", str(made / "packed")]) == 0
    return made


def test_parts_are_what_rows_start_from_in_half_the_room(folder: Path) -> None:
    base = Recipe.read(folder / "tiny.toml")
    assert {path.name for path in (folder / "packed").iterdir()} == {*NEEDED}
    for stage in NEEDED:
        assert done_digest(folder / "packed" / stage) == digest(base, stage)
    weights = list((folder / "packed").rglob("*.safetensors"))
    assert {path.parent.name for path in weights} == {"out", "unet", "text", "vision", "projector", "llm"}
    for path in weights:
        whole, packed = load_file(base.folder / path.relative_to(folder / "packed")), load_file(path)
        assert whole.keys() == packed.keys()
        for key, value in whole.items():
            assert packed[key].dtype == torch.bfloat16
            assert torch.equal(packed[key], value.to(torch.bfloat16))


def test_rows_start_from_the_parts_alone(folder: Path, tmp_path: Path) -> None:
    write_tables(tmp_path, parts=str(folder / "packed"))
    table = Table.read(tmp_path / "order.toml")
    for row in table.rows:
        assert parts.own_stages(table, row) == []
    row = table.rows[0]
    own = PhaseObjective(table.variant(row, row.phases[1], seed=0), parts.inputs(table, row))
    assert {parameter.dtype for parameter in own.module.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in own.text.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in own.decoder_stage.parameters()} == {torch.float32}
    assert torch.isfinite(own.backward(0)["loss"])


def test_what_nobody_has_is_trained_for_the_row(folder: Path, tmp_path: Path) -> None:
    """Rows of other encoders start before the understanding stage, whose parts are not packed."""
    write_tables(tmp_path, parts=str(folder / "packed"))
    table = Table.read(tmp_path / "encoder.toml")
    assert [parts.own_stages(table, row) for row in table.rows] == [["encoder", "llm"]] * 2
    folders = [parts.stage_folder(table, row, stage) for row in table.rows for stage in ("encoder", "llm")]
    assert folders[0] != folders[2]  # another encoder
    assert folders[1] == folders[3]
    parts.train_own(table, table.rows[0], "encoder", lambda figures: None)
    assert parts.is_done(table, table.rows[0], "encoder")


def test_parts_of_other_settings_are_not_taken(folder: Path, tmp_path: Path) -> None:
    write_tables(tmp_path, parts=str(folder / "packed"), llm_steps=5)
    table = Table.read(tmp_path / "order.toml")
    assert parts.own_stages(table, table.rows[0]) == ["encoder", "llm", "understanding"]
    assert parts.stage_folder(table, table.rows[0], "unet") == folder / "packed" / "unet"


def test_nothing_is_packed_of_an_unfinished_run_nor_over_anything(folder: Path, tmp_path: Path) -> None:
    write_tables(tmp_path)
    table = Table.read(tmp_path / "order.toml")
    with pytest.raises(FailedPrecondition, match="holds no tokenizer of tiny.toml"):
        pack(table, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()
    with pytest.raises(InvalidArgument, match="packed exists"):
        pack(Table.read(folder / "order.toml"), folder / "packed")


def test_the_tables_that_ship_have_their_parts() -> None:
    """Those of the shipped recipe as it is now; all in all no larger than a checkpoint may be."""
    for name in NAMES:
        table = Table.read(TABLES / f"{name}.toml")
        assert table.parts
        for stage in {*parts.needed(table)} & {*NEEDED}:
            assert done_digest(table.parts / stage) == digest(table.base(), stage), f"{name}: {stage}"
    packed = ROOT / "checkpoints" / "genllava-tiny-parts"
    assert sum(path.stat().st_size for path in packed.rglob("*") if path.is_file()) < MAX_BYTES
