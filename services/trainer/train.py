"""One stage of gradient training: resumable after any kill, deterministic by seed, judged by its gate."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from services.trainer.average import Averaged, Ema, trained
from services.trainer.compiling import compile_checked
from services.trainer.config import Stage
from services.trainer.done import write_done
from services.trainer.gate import check_gate
from services.trainer.metrics import MetricsLog
from services.trainer.objectives.base import Objective
from services.trainer.sharding import drop_whole, shard, whole, whole_weights
from services.trainer.states import States
from triptych.errors import FailedPrecondition, InvalidArgument, TriptychError

Report = Callable[[dict[str, float]], None]


def learning_rate(config: Stage, step: int) -> float:
    """Linear warm-up, then cosine down to `lr_floor` of the peak at the last step."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * (config.lr_floor + (1 - config.lr_floor) * cosine)


def _optimizers(config: Stage, groups: list[dict[str, Any]]) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon (Jordan et al. 2024, updates as large as AdamW's) beside it for groups that ask for it."""
    plain = [group for group in groups if not group.get("muon")]
    matrices = [group for group in groups if group.get("muon")]
    rate, decay = config.learning_rate, config.weight_decay
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(plain, lr=rate, betas=(0.9, config.beta2), weight_decay=decay, foreach=True)
    ]
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    return optimizers


def check_distribution(objective: Objective) -> None:
    """Raises InvalidArgument for what cannot be spread over ranks."""
    ranks, distribution = objective.ranks, objective.config.distribution
    if not objective.is_distributed and (distribution or ranks.world_size > 1):
        raise InvalidArgument(f"{objective.name} trains in one process only: it takes no distribution")
    assert distribution or ranks.world_size == 1
    by_muon = any(group.get("muon") for group in objective.parameter_groups())
    if distribution and distribution.shard and ranks.world_size > 1 and by_muon:
        raise InvalidArgument(f"{objective.name}: Muon needs whole matrices: shard = false, or one rank")


class StageRun:
    """The state of one stage under way: module, optimizer, average, step. Shards the module if the stage says so."""

    def __init__(self, objective: Objective, folder: Path, digest: str) -> None:
        self.objective, self.ranks = objective, objective.ranks
        self.config = objective.config
        distribution = self.config.distribution
        check_distribution(objective)
        if distribution:
            shard(objective.module, objective.blocks(), distribution, self.ranks)
        groups = objective.parameter_groups()
        self.optimizers = _optimizers(self.config, groups)
        self.parameters: list[nn.Parameter] = [p for g in groups for p in g["params"]]  # type: ignore[attr-defined]
        self.ema = Ema(objective.module, self.config.ema_decay) if self.config.ema_decay else None
        keep = distribution.keep_checkpoints if distribution else 1
        self.states = States(folder / "states", digest, self.ranks, keep)
        self.step = 0

    def save(self) -> None:
        """Starts writing the state of this step; a kill at any moment leaves a whole one."""
        self.states.save(self.step, {**self._tensors(), **self._own_rng()})

    def resume(self) -> None:
        """Continues from the last state if there is one. Raises InvalidArgument when other settings made it."""
        step = self.states.open()
        if step is None:
            return
        saved = self.states.tensors(step)
        self._make_room(saved)
        rng = self._own_rng()
        own_rng = {key: value for key, value in rng.items() if key in saved}  # a rank more than there were has none
        self.states.load(step, {**self._tensors(), **own_rng})
        self._set_rng(own_rng)
        self.step = step

    def _tensors(self) -> dict[str, Tensor]:
        """Trained weights, optimizer states and average, by name, as they are kept: sharded ones as shards."""
        module = trained(self.objective.module)
        names = {id(p): key for key, p in module.items()}
        states = {
            f"optimizer.{names[id(p)]}.{slot}": value
            for optimizer in self.optimizers
            for p, slots in optimizer.state.items()
            for slot, value in slots.items()
        }
        average = {f"ema.{key}": value for key, value in self.ema.weights.items()} if self.ema else {}
        return {**{f"module.{key}": p.detach() for key, p in module.items()}, **states, **average}

    def _make_room(self, saved: dict[str, tuple[int, ...]]) -> None:
        """Optimizer states as they were saved, to be loaded into: a fresh optimizer has none before its first step."""
        for optimizer in self.optimizers:
            owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
            for key, p in trained(self.objective.module).items():
                prefix = f"optimizer.{key}."
                slots = {name.removeprefix(prefix): shape for name, shape in saved.items() if name.startswith(prefix)}
                if id(p) in owned and slots:
                    sharded = {slot: torch.zeros_like(p.detach()) for slot, shape in slots.items() if shape}
                    optimizer.state[p] = {slot: sharded.get(slot, torch.zeros(())) for slot in slots}

    def _own_rng(self) -> dict[str, Tensor]:
        """torch's generators (dropout); batches are pure functions of seed and step and need none."""
        states = {f"rng.{self.ranks.rank}.cpu": torch.get_rng_state()}
        if self.ranks.device.type == "cuda":
            states[f"rng.{self.ranks.rank}.cuda"] = torch.cuda.get_rng_state(self.ranks.device)
        return states

    def _set_rng(self, states: dict[str, Tensor]) -> None:
        for key, state in states.items():
            if key.endswith(".cuda"):
                torch.cuda.set_rng_state(state, self.ranks.device)
            else:
                torch.set_rng_state(state)

    def advance(self) -> dict[str, Tensor]:
        """One optimizer step. Raises FailedPrecondition when the loss is no longer finite."""
        rate = learning_rate(self.config, self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["lr_scale"]
            optimizer.zero_grad(set_to_none=True)
        figures = self.objective.backward(self.step)
        norm = whole(nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm))
        if not torch.isfinite(norm):
            raise FailedPrecondition(f"{self.objective.name}: gradient norm {norm.item()} at step {self.step}")
        for optimizer in self.optimizers:
            optimizer.step()
        if self.ema:
            self.ema.update(self.objective.module, self.step)
        self.step += 1
        return {**figures, "gradient_norm": norm, "learning_rate": torch.tensor(rate)}

    def averaged(self) -> Averaged:
        return Averaged(self.objective.module, self.ema)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Within the block states may be under way; after it, however it ends, none is."""
        try:
            yield
        except BaseException:
            with suppress(TriptychError):  # what went wrong first is what to say
                self.states.finish()
            raise
        self.states.finish()


def train_stage(objective: Objective, folder: Path, digest: str, report: Report) -> dict[str, float]:
    """Runs a stage to its end and writes `folder/out` and `folder/done.json`; returns the last evaluation.

    Every rank calls it; rank 0 reports and writes. Raises FailedPrecondition when the gate is missed: nothing later
    may build on it. Raises ResourceExhausted when a training state cannot be written.
    """
    config, ranks = objective.config, objective.ranks
    folder.mkdir(parents=True, exist_ok=True)
    run = StageRun(objective, folder, digest)
    if config.distribution:
        torch.manual_seed(objective.recipe.seed + ranks.rank)  # each rank drops out on its own
    run.resume()
    log = MetricsLog(folder / "metrics.jsonl", run.step, ranks)
    say = report if ranks.is_first else _silent
    objective.module.train()
    if objective.recipe.compile and config.distribution is None and run.step < config.steps:
        say({"step": run.step, "steps": config.steps, "compiled": float(compile_checked(objective, run.step))})
    with run.saving():
        evaluation = _loop(run, log, say)
    with run.averaged():
        evaluation = evaluation or objective.evaluate()
        check_gate(objective.name, config.gate, evaluation)
        drop_whole(objective.module)
        with whole_weights(objective.module, ranks):
            if ranks.is_first:
                objective.write(folder / "out")
    if ranks.is_first:
        write_done(folder, digest, evaluation, log.total_seconds())
    run.states.wait_for_all()
    return evaluation


def _loop(run: StageRun, log: MetricsLog, report: Report) -> dict[str, float]:
    """All steps that are left; returns the last evaluation, empty if there was none."""
    config, evaluation = run.config, {}
    while run.step < config.steps:
        log.add(run.advance())
        last = run.step == config.steps
        if run.step % 20 == 0 or last:
            report({"step": run.step, "steps": config.steps, **log.flush(run.step)})
        if run.step % config.evaluate_every == 0 or last:
            with run.averaged():
                evaluation = run.objective.evaluate()
            log.write({"step": run.step, **evaluation})
            report({"step": run.step, "steps": config.steps, **evaluation})
        if run.step % config.save_every == 0 or last:
            run.save()
        run.states.poll()
    return evaluation


def _silent(figures: dict[str, float]) -> None:
    """Ranks other than the first."""
