"""One stage of gradient training: resumable after any kill, deterministic by seed, judged by its gate."""

import copy
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from services.trainer.config import Stage
from services.trainer.done import write_done
from services.trainer.gate import check_gate
from services.trainer.objectives.base import Objective
from triptych.errors import FailedPrecondition, InvalidArgument

LEAST_NORM = 1e-2  # gradients smaller than this share of the largest are bf16 noise, and not compared
LEAST_COSINE = 0.8
Report = Callable[[dict[str, float]], None]


def learning_rate(config: Stage, step: int) -> float:
    """Linear warm-up, then cosine down to `lr_floor` of the peak at the last step."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * (config.lr_floor + (1 - config.lr_floor) * cosine)


class Ema:
    """Exponential moving average of a module's weights, with a warm-up so that early steps do not linger."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {key: value.detach().clone() for key, value in _trained(module).items()}

    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        trained = _trained(module)
        own, new = list(self.weights.values()), [trained[key].detach() for key in self.weights]
        torch._foreach_lerp_(own, new, 1 - decay)


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


def _trained(module: nn.Module) -> dict[str, Tensor]:
    return {key: p for key, p in module.named_parameters() if p.requires_grad}


class StageRun:
    """The state of one stage under way: module, optimizer, average, step."""

    def __init__(self, objective: Objective, folder: Path, digest: str) -> None:
        self.objective, self.folder, self.digest = objective, folder, digest
        self.config = objective.config
        groups = objective.parameter_groups()
        self.optimizers = _optimizers(self.config, groups)
        self.parameters: list[nn.Parameter] = [p for g in groups for p in g["params"]]  # type: ignore[attr-defined]
        self.ema = Ema(objective.module, self.config.ema_decay) if self.config.ema_decay else None
        self.step = 0

    def save(self) -> None:
        """Atomic: a kill at any moment leaves the previous state whole."""
        state = {
            "digest": self.digest,
            "step": self.step,
            "module": _trained(self.objective.module),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "ema": self.ema.weights if self.ema else {},
        }
        partial = self.folder / "state.pt.partial"
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(self.folder / "state.pt")

    def resume(self) -> None:
        """Continues from `state.pt` if there is one. Raises InvalidArgument when other settings made it."""
        path = self.folder / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        if state["digest"] != self.digest:
            raise InvalidArgument(
                f"{path} was made by settings {state['digest']}, not {self.digest}: delete {self.folder} to start anew"
            )
        with torch.no_grad():
            for key, parameter in _trained(self.objective.module).items():
                parameter.copy_(state["module"][key])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self.ema:
            self.ema.weights = state["ema"]
        self.step = int(state["step"])

    def advance(self) -> dict[str, Tensor]:
        """One optimizer step. Raises FailedPrecondition when the loss is no longer finite."""
        rate = learning_rate(self.config, self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["lr_scale"]
            optimizer.zero_grad(set_to_none=True)
        figures = self.objective.backward(self.step)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        if not torch.isfinite(norm):
            raise FailedPrecondition(f"{self.objective.name}: gradient norm {norm.item()} at step {self.step}")
        for optimizer in self.optimizers:
            optimizer.step()
        if self.ema:
            self.ema.update(self.objective.module, self.step)
        self.step += 1
        return {**figures, "gradient_norm": norm, "learning_rate": torch.tensor(rate)}

    def averaged(self) -> "_Averaged":
        return _Averaged(self.objective.module, self.ema)


class _Averaged:
    """Within the block, the module carries the averaged weights and is in evaluation mode."""

    def __init__(self, module: nn.Module, ema: Ema | None) -> None:
        self.module, self.ema = module, ema

    def __enter__(self) -> None:
        self.module.eval()
        self.kept = {k: v.detach().clone() for k, v in _trained(self.module).items()} if self.ema else {}
        if self.ema:
            self._put(self.ema.weights)

    def __exit__(self, *_: object) -> None:
        self._put(self.kept)
        self.module.train()

    def _put(self, weights: dict[str, Tensor]) -> None:
        trained = _trained(self.module)
        with torch.no_grad():
            for key, value in weights.items():
                trained[key].copy_(value)


def train_stage(objective: Objective, folder: Path, digest: str, report: Report) -> dict[str, float]:
    """Runs a stage to its end and writes `folder/out` and `folder/done.json`; returns the last evaluation.

    Raises FailedPrecondition when the gate is missed: nothing later may build on it.
    """
    config = objective.config
    folder.mkdir(parents=True, exist_ok=True)
    run = StageRun(objective, folder, digest)
    run.resume()
    log = MetricsLog(folder / "metrics.jsonl", run.step)
    objective.module.train()
    if objective.recipe.compile and run.step < config.steps:
        report({"step": run.step, "steps": config.steps, "compiled": float(compile_checked(objective, run.step))})
    evaluation: dict[str, float] = {}
    while run.step < config.steps:
        figures = run.advance()
        log.add(figures)
        last = run.step == config.steps
        if run.step % 20 == 0 or last:
            report({"step": run.step, "steps": config.steps, **log.flush(run.step)})
        if run.step % config.evaluate_every == 0 or last:
            with run.averaged():
                evaluation = objective.evaluate()
            log.write({"step": run.step, **evaluation})
            report({"step": run.step, "steps": config.steps, **evaluation})
        if run.step % config.save_every == 0 or last:
            run.save()
    with run.averaged():
        evaluation = evaluation or objective.evaluate()
        check_gate(objective.name, config.gate, evaluation)
        objective.write(folder / "out")
    write_done(folder, digest, evaluation, log.total_seconds())
    return evaluation


def compile_checked(objective: Objective, step: int) -> bool:
    """Compiles the objective if that leaves its gradients what they are; returns whether it did.

    torch 2.13's CPU compiler is known to lose whole gradients in silence (the VAE's encoder got zeros).
    """
    plain = _gradients(objective, step)
    objective.compile()
    compiled = _gradients(objective, step)
    objective.module.zero_grad(set_to_none=True)
    least = LEAST_NORM * max(g.norm() for g in plain.values())
    compared = [k for k, g in plain.items() if g.norm() > least]
    if all(
        k in compiled and cosine_similarity(plain[k].flatten(), compiled[k].flatten(), dim=0) >= LEAST_COSINE
        for k in compared
    ):
        return True
    objective.uncompile()
    return False


def _gradients(objective: Objective, step: int) -> dict[str, Tensor]:
    objective.module.zero_grad(set_to_none=True)
    objective.backward(step)
    return {key: p.grad.clone() for key, p in _trained(objective.module).items() if p.grad is not None}


class MetricsLog:
    """metrics.jsonl: means over the steps between two lines, with the seconds spent so far over all resumes."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        text = path.read_text() if path.exists() else ""
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]  # a kill cuts one
        kept = [line for line in lines if line["step"] <= step]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._before = max((line["seconds"] for line in kept), default=0.0)
        self._start = time.monotonic()
        self._sums: dict[str, Tensor] = {}
        self._num = 0

    def total_seconds(self) -> float:
        return round(self._before + time.monotonic() - self._start, 1)

    def add(self, figures: dict[str, Tensor]) -> None:
        self._num += 1
        for key, value in figures.items():
            self._sums[key] = self._sums.get(key, torch.zeros(())) + value.detach().float()

    def flush(self, step: int) -> dict[str, float]:
        means = {key: value.item() / self._num for key, value in self._sums.items()}
        self._sums, self._num = {}, 0
        self.write({"step": step, **means})
        return means

    def write(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({**line, "seconds": self.total_seconds()}) + "\n")


def frozen(module: nn.Module) -> nn.Module:
    """A copy that takes no gradients of its own, in evaluation mode."""
    return copy.deepcopy(module).requires_grad_(False).eval()
