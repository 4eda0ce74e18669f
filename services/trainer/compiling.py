"""Compiled forward passes are used only if they leave the gradients what they are."""

from torch import Tensor
from torch.nn.functional import cosine_similarity

from services.trainer.average import trained
from services.trainer.objectives.base import Objective

LEAST_NORM = 1e-2  # gradients smaller than this share of the largest are bf16 noise, and not compared
LEAST_COSINE = 0.8


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
    return {key: p.grad.clone() for key, p in trained(objective.module).items() if p.grad is not None}
