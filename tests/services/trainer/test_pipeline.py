"""The trainer as it is run: every stage of a recipe in processes of their own, killed midway, to a checkpoint."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from services.trainer import pipeline
from services.trainer.config import Recipe
from services.trainer.progress import Lines
from services.trainer.stages import NEEDS, digest, is_done
from tests.services.trainer.test_leash import wait_until_gone
from tests.services.trainer.test_tuning import stand_in
from tests.services.trainer.tiny_recipe import tiny_values
from tests.services.trainer.tuned import recipe as tuning_recipe
from triptych.card import read_card, verify_digest
from triptych.errors import FailedPrecondition
from triptych.up import check_checkpoint

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 600
KINDS = ("encoder", "llm", "decoder")
ONE_LONG_STAGE = """
import sys
from pathlib import Path
from services.trainer import pipeline
from services.trainer.progress import Lines
from services.trainer.recipe import read_recipe

stage = "import json, os, time; print(json.dumps(dict(step=1, steps=2, pid=os.getpid())), flush=True); time.sleep(300)"
pipeline.command = lambda *_: [sys.executable, "-S", "-c", stage]
path = Path(sys.argv[1])
pipeline.run_stages(read_recipe(path), path, ["vae"], 1, Lines())
"""


def toml(values: dict[str, Any], prefix: str = "") -> str:
    """Tables last; enough of TOML for a recipe."""
    tables = {key: value for key, value in values.items() if isinstance(value, dict)}
    lines = [f"{key} = {literal(value)}" for key, value in values.items() if key not in tables]
    for key, table in tables.items():
        lines += ["", f"[{prefix}{key}]", toml(table, f"{prefix}{key}.")]
    return "\n".join(lines)


def literal(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(literal(item) for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def write_recipe(folder: Path) -> Path:
    folder.mkdir()
    values = tiny_values(out=str(folder / "checkpoint"), runs=str(folder / "runs"))
    values["unet"] = {**values["unet"], "save_every": 1, "steps": 40}  # long enough to be killed within
    values["checkpoint"] = {**values["checkpoint"], "num_inference_steps": 2, "max_tokens": 8}
    values["evaluate"] = {"num_scenes": 10}
    values["export"] = {"encoder": ["onnx-f32"]}
    path = folder / "recipe.toml"
    path.write_text(toml(values))
    assert tomllib.loads(path.read_text())["unet"]["steps"] == 40
    return path


def start(recipe: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "services.trainer", str(recipe), "--threads", "2", *options]
    # Threads that spin while they wait keep each other waiting on a busy machine.
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(recipe: Path, *options: str) -> None:
    process = start(recipe, *options)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, errors[-2000:]


def begin_from(done: Path, recipe: Path, stages: tuple[str, ...]) -> None:
    """The first stages of a run like it, so that they need not be done twice."""
    for stage in stages:
        shutil.copytree(Recipe.read(done).folder / stage, Recipe.read(recipe).folder / stage)
        assert is_done(Recipe.read(recipe), stage)


def kill_within(recipe: Path, stage: str) -> None:
    """SIGKILL to the trainer and all it started, as soon as the stage has saved its state once."""
    folder = Recipe.read(recipe).folder / stage
    process = start(recipe)
    deadline = time.monotonic() + TIMEOUT_S
    while not (folder / "states" / "LAST").exists():
        assert process.poll() is None, process.communicate()[1][-2000:]
        assert time.monotonic() < deadline, f"{stage} never saved its state"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "done.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(2 * TIMEOUT_S)
def test_a_run_from_nothing_to_a_checkpoint_and_one_that_is_killed(tmp_path: Path) -> None:
    unharmed, killed = (write_recipe(tmp_path / name) for name in ("unharmed", "killed"))
    finish(unharmed)
    recipe = Recipe.read(unharmed)
    assert all(is_done(recipe, stage) for stage in NEEDS)
    check_checkpoint(unharmed.parent / "checkpoint")
    for kind in KINDS:
        verify_digest(unharmed.parent / "checkpoint" / kind, read_card(unharmed.parent / "checkpoint" / kind))
    assert (recipe.folder / "unet" / "loss.png").stat().st_size > 1000
    below_the_gate(unharmed)
    begin_from(unharmed, killed, ("tokenizer", "vae", "encoder", "llm"))
    kill_within(killed, "unet")
    finish(killed, "--stage", "unet", "--threads", "1")  # as the pipeline runs it
    ends = [contents(Recipe.read(path).folder / "unet" / "out") for path in (unharmed, killed)]
    assert len(ends[0]) > 5
    assert ends[0] == ends[1]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def below_the_gate(path: Path) -> None:
    """Judged again under a gate that such a model misses: an error, and the figures are kept."""
    changed = path.with_name("gated.toml")
    changed.write_text(path.read_text().replace("num_scenes = 10", "num_scenes = 11\ngate = { questions = 1.0 }"))
    command = [sys.executable, "-m", "services.trainer", str(changed), "--task", "evaluate", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 1
    assert "evaluate missed its gate: questions 0." in done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["stage"] for line in lines} == {"evaluate"}
    assert (lines[0].get("step"), lines[-1]["step"], lines[-1]["steps"]) == (None, 44, 44)
    folder = Recipe.read(path).folder / "evaluate"
    results = json.loads((folder / "evaluation.json").read_text())
    assert results["evaluators"]["blocks-questions"]["figures"]["questions"]["of"] == 22
    assert "questions" in (folder / "evaluation.html").read_text()


def test_a_stage_that_fails_is_named_with_its_log(tmp_path: Path) -> None:
    values = tiny_values(runs=str(tmp_path / "runs"))
    values["vae"] = {**values["vae"], "gate": {"scenes_read": 1.0}}
    path = tmp_path / "recipe.toml"
    path.write_text(toml(values))
    process = start(path)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert "stage vae failed (log: " in errors
    assert "scenes_read" in errors


@pytest.mark.timeout(60)
def test_data_that_change_under_a_stage_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than to wait for ever for a stage of the new data, which is not started again."""
    recipe = tuning_recipe(stand_in(tmp_path), runs=str(tmp_path / "runs"))
    folder, index = recipe.folder / "all", tmp_path / "mix" / "index.json"
    folder.mkdir(parents=True)
    done = json.dumps({"digest": digest(recipe, "all"), "evaluation": {}, "seconds": 1})
    stage = f"open({str(folder / 'done.json')!r}, 'w').write({done!r}); open({str(index)!r}, 'a').write(' ')"
    monkeypatch.setattr(pipeline, "command", lambda *_: [sys.executable, "-S", "-c", stage])
    with pytest.raises(FailedPrecondition, match="stage all ended well, but .* changed while it ran"):
        pipeline.run_stages(recipe, tmp_path / "recipe.toml", ["all"], 1, Lines())
    assert done == (folder / "done.json").read_text()


def test_a_killed_trainer_takes_its_stage_along(tmp_path: Path) -> None:
    """Else it would train on, beside the one that the next start of the same command brings."""
    path = tmp_path / "recipe.toml"
    path.write_text(toml(tiny_values(runs=str(tmp_path / "runs"))))
    trainer = subprocess.Popen([sys.executable, "-c", ONE_LONG_STAGE, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert trainer.stdout is not None
    stage = next(said["pid"] for said in map(json.loads, trainer.stdout) if "pid" in said)
    trainer.kill()
    trainer.wait()
    wait_until_gone(stage)
