"""Every row of every table that ships: trained for a few steps, judged, and in the table."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from services.trainer.ablations.__main__ import main
from services.trainer.ablations.phase import PREVIOUS, PhaseObjective
from services.trainer.ablations.results import ANSWERS, COLUMNS, Results
from services.trainer.ablations.run import Run
from services.trainer.ablations.table import Table
from services.trainer.config import Recipe
from tests.services.trainer.ablations.tiny_tables import NAMES, ROOT, TABLES, finish_base_run, write_tables
from triptych.card import read_card
from triptych.errors import FailedPrecondition, InvalidArgument
from triptych.models.encoder_stage import EncoderStage


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables as they ship, over a tiny base run that is done."""
    made = tmp_path_factory.mktemp("ablations")
    write_tables(made)
    finish_base_run(made)
    return made


def quiet(figures: dict[str, float]) -> None:
    assert {"step", "steps"} <= figures.keys()


@pytest.mark.parametrize(
    "name", ["img_tokens", pytest.param("order", marks=pytest.mark.slow), pytest.param("data", marks=pytest.mark.slow)]
)  # the command below does the other one
def test_every_row_lands_in_the_table(name: str, folder: Path) -> None:
    table = Table.read(folder / f"{name}.toml")
    runs = [Run(table, row, seed=3) for row in table.rows]
    for run in runs:
        run.go(quiet)
        assert run.is_done()
        assert {path.name for path in run.folder.iterdir()} > {"checkpoint", "evaluation.html", "phase-0"}
        facts = read_card(run.folder / "checkpoint" / "llm").facts
        assert facts["template"]["num_img_tokens"] == run.row.template.get("num_img_tokens", 16)
    results = Results.of(table, runs)
    for row in table.rows:
        assert set(results.values[row.name]) == (set(COLUMNS.values()) if table.draws(row) else set(ANSWERS))
    lines = results.to_markdown().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [row.name for row in table.rows]


@pytest.mark.slow
def test_the_command_does_all_of_it_once(folder: Path) -> None:
    """Two rows under two seeds, in processes of their own, one of which trains an encoder first."""
    command = [sys.executable, "-m", "services.trainer.ablations", str(folder / "encoder.toml"), "--steps", "2"]
    command += ["--seeds", "0,1", "--side-by-side", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    made = folder / "runs" / "ablations" / "encoder"
    assert done.stdout.splitlines()[-1] == str(made / "results.md")
    values = json.loads((made / "results.json").read_text())
    assert values["steps"] == 2
    rows = values["rows"]
    assert {(run["row"], run["seed"]) for run in values["runs"]} == {(row, seed) for row in rows for seed in (0, 1)}
    assert len({run["digest"] for run in values["runs"]}) == 4
    assert [set(rows[name]) for name in ("small: 3 layers of 96", "large: 6 layers of 160")] == [
        {*COLUMNS.values()}
    ] * 2
    assert {len(found["values"]) for row in values["rows"].values() for found in row.values()} == {2}
    assert "±" in (made / "results.md").read_text()
    assert (made / "results.png").stat().st_size > 1000
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("done.json")}
    assert main(command[3:]) == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("done.json")} == before


def test_the_seed_changes_what_is_trained_and_nothing_below(folder: Path) -> None:
    table = Table.read(folder / "order.toml")
    runs = {seed: Run(table, table.rows[0], seed) for seed in (0, 1)}
    assert runs[0].settings()["parts"] == runs[1].settings()["parts"]
    assert runs[0].digest != runs[1].digest
    phases = runs[0].recipes()
    assert [phase.multimodal.steps for phase in phases] == [1, 4, 4]
    assert [group.batch_size for group in phases[1].multimodal.groups] == [2, 2]
    assert {phase.multimodal.auto_task_share for phase in phases} == {0.5}


def test_tables_share_the_runs_of_equal_rows() -> None:
    tables = {name: Table.read(TABLES / f"{name}.toml") for name in NAMES}
    run = {name: [Run(table, row, 0).digest for row in table.rows] for name, table in tables.items()}
    assert run["data"][3] == run["img_tokens"][2] != run["encoder"][1]
    assert run["data"][4] == run["order"][3]
    assert len({digest for digests in run.values() for digest in digests}) == 12


def test_a_phase_goes_on_from_the_one_before_and_trains_what_it_says(folder: Path, tmp_path: Path) -> None:
    from services.trainer.ablations.parts import inputs

    table = Table.read(folder / "order.toml")
    row = table.rows[0]
    recipe = table.variant(row, row.phases[0], seed=0)
    first = PhaseObjective(recipe, inputs(table, row), trained=("projector",))
    first.write(tmp_path / "out")
    names = {key for key, p in first.module.named_parameters() if p.requires_grad}
    assert names
    assert {name.split(".")[0] for name in names} == {"projector"}
    figures = first.backward(0)
    assert "generation" not in figures
    recipe = table.variant(row, row.phases[1], seed=1)
    second = PhaseObjective(recipe, inputs(table, row) | {PREVIOUS: tmp_path / "out"})
    for key, value in first.module.state_dict().items():
        torch.testing.assert_close(second.module.state_dict()[key], value, rtol=0, atol=0)
    assert "generation" in second.backward(0)


def test_the_head_may_begin_by_its_regression_alone(folder: Path) -> None:
    from services.trainer.ablations.parts import inputs

    table = Table.read(folder / "img_tokens.toml")
    (phase,) = table.rows[0].phases
    assert table.align_only_steps(phase) == 5
    recipe = table.variant(table.rows[0], phase, seed=0)
    own = PhaseObjective(recipe, inputs(table, table.rows[0]), align_only_steps=table.align_only_steps(phase))
    named = [own.backward(step).keys() & {"align", "generation"} for step in (4, 5)]
    assert named == [{"align"}, {"align", "generation"}]


def test_rows_start_where_the_table_says(folder: Path) -> None:
    """Encoder and LLM apart get a fresh projector; the understanding stage has trained one."""
    from services.trainer.ablations.parts import inputs

    started = {}
    for name in ("img_tokens", "encoder"):
        table = Table.read(folder / f"{name}.toml")
        row = table.rows[-1]
        own = PhaseObjective(table.variant(row, row.phases[0], seed=0), inputs(table, row))
        started[name] = own.encoder_stage.projector.state_dict()
    kept = EncoderStage.load(Recipe.read(folder / "tiny.toml").folder / "understanding" / "out" / "encoder").projector
    for key, value in kept.state_dict().items():
        assert torch.equal(started["img_tokens"][key], value)
    assert any(not torch.equal(started["encoder"][key], value) for key, value in kept.state_dict().items())


def test_without_the_base_run_it_says_what_comes_first(tmp_path: Path) -> None:
    write_tables(tmp_path)
    table = Table.read(tmp_path / "order.toml")
    with pytest.raises(FailedPrecondition, match="holds no tokenizer of tiny.toml"):
        Run(table, table.rows[0], 0).go(quiet)
    assert main([str(tmp_path / "order.toml")]) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"drawings"]', '"paintings"]', "unknown groups paintings"),
        ("share = 0.45", "share = 0.6", "shares add up to 1.3"),
        ('name = "one stage"', 'name = "Understanding: only"', "names must differ"),
        ("title =", "titel =", "titel"),
    ],
)
def test_wrong_tables_are_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "common.toml").write_text((TABLES / "common.toml").read_text())
    text = (TABLES / "order.toml").read_text().replace('"drawings", "edits"]', '"edits", "drawings"]')
    (tmp_path / "order.toml").write_text(text.replace(old, new))
    with pytest.raises(InvalidArgument, match=re.escape(message)):
        Table.read(tmp_path / "order.toml")


@pytest.mark.parametrize("option", ["--side-by-side", "--steps"])
@pytest.mark.parametrize("number", ["0", "-5"])
def test_numbers_below_one_are_refused(option: str, number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(TABLES / "order.toml"), option, number])
    assert ended.value.code == 2
    assert f"argument {option}: {number} is below 1" in capsys.readouterr().err
