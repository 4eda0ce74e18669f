"""The gate of a stage: figures that must be reached before anything may build on its work."""

from collections.abc import Iterable

from triptych.errors import FailedPrecondition, InvalidArgument

_READ_BACK = ("scenes_read", "backgrounds_read", "latent_std")
_DRAWINGS = ("draw_blocks_right", "draw_exact", "edit_blocks_right", "edit_exact")
# What the stages of a Blocks recipe report. Their objectives cannot be asked before work starts: they import torch.
FIGURES: dict[str, tuple[str, ...]] = {
    "vae": _READ_BACK,
    "vae_decoder": _READ_BACK,
    "unet": ("blocks_right", "scenes_right"),
    "encoder": ("picked", "picked_in_group", "words_right"),  # the last one if there are crowds
    "llm": ("ask_right", "draw_right", "edit_right"),
    "understanding": ("answers_right",),
    "multimodal": ("answers_right", *_DRAWINGS),
    "handover": _DRAWINGS,
}


def check_names(where: str, gate: Iterable[str], known: Iterable[str]) -> None:
    """Raises InvalidArgument for a figure that does not exist. A known name that ends in * stands for all that begin
    like it: of figures by kind, only the data know the kinds."""
    known = tuple(known)
    if unknown := sorted(name for name in gate if not any(_fits(name, one) for one in known)):
        raise InvalidArgument(f"{where} names {', '.join(unknown)}, known are {', '.join(known) or 'none'}")


def check_gate(name: str, gate: dict[str, float], evaluation: dict[str, float]) -> None:
    """Raises FailedPrecondition naming what was missed, InvalidArgument for a figure that does not exist."""
    check_names(f"{name}'s gate", gate, evaluation)
    # Not "below the least": what is no number reaches nothing.
    missed = {key: (evaluation[key], least) for key, least in gate.items() if not evaluation[key] >= least}
    if missed:
        listed = ", ".join(f"{key} {got:.4f} < {least}" for key, (got, least) in missed.items())
        raise FailedPrecondition(f"{name} missed its gate: {listed}")


def _fits(name: str, known: str) -> bool:
    return name == known or (known.endswith("*") and name.startswith(known[:-1]))
