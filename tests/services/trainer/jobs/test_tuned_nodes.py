"""A real job on two nodes: two workers with queues of their own train one model together."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from services.trainer.recipe import read_recipe
from services.trainer.worker import run_stage
from tests.services.trainer.jobs.bench import Bench
from tests.services.trainer.test_pipeline import literal
from tests.services.trainer.tuned import STAGE


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path, trainer="")
    yield bench
    bench.close()


def write_recipe(bench: Bench, root: Path, name: str, num_nodes: int) -> Path:
    stage = {**STAGE, "train": ["projector", "llm"], "tasks": ["understand"], "steps": 3}
    values = {
        **{"kind": "tuning", "name": name, "base": str(root / "llava"), "data": str(root / "mix"), "held_out": 8},
        **{"runs": str(bench.runs), "out": str(bench.folder / name), "stages": [stage]},
        "distribution": {"num_nodes": num_nodes, "device": "cpu", "precision": "f32"},
        "checkpoint": {"version": "1.0.0", "weights": "f32"},
    }
    path = bench.folder / f"{name}.toml"
    path.write_text("\n".join(f"{key} = {literal(value)}" for key, value in values.items()) + "\n")
    return path


@pytest.mark.slow
def test_two_workers_train_what_one_process_does(bench: Bench, tuning_root: Path) -> None:
    for queue in ("a", "b"):
        bench.start_worker("--queue", queue)
    job_id = bench.train("submit", str(write_recipe(bench, tuning_root, "pair", 2)), "--queue", "a", "--queue", "b")[0]
    bench.wait(lambda: (bench.store.get(job_id).task, bench.store.get(job_id).state) == ("train", "running"))
    assert len({node.worker for node in bench.store.get(job_id).nodes}) == 2
    bench.wait(lambda: bench.store.get(job_id).task != "train" or bench.store.get(job_id).is_ended)
    job = bench.store.get(job_id)
    assert job.task == "evaluate", f"{job}\n{bench.logs()}"
    assert job.progress["all"].step == 3
    bench.train("cancel", job_id)

    alone = read_recipe(write_recipe(bench, tuning_root, "alone", 1))
    run_stage(alone, "all", 1)
    for part in ("llm", "projector"):
        one, two = (
            load_file(next((bench.runs / name / "all" / "out").glob(f"{part}/*.safetensors")))
            for name in ("alone", "pair")
        )
        assert one.keys() == two.keys()
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=0, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}")
