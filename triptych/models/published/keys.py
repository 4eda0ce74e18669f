"""How published files spell their tensors' names, and what we call them: transformers 4 and 5, old and new diffusers.

Spellings were taken from the files' published listings and from the libraries' own conversions. Which names must be
there, and of which shape, the module says that will hold them.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from torch import nn

from triptych.errors import CheckpointError
from triptych.models.published.shards import NAMES
from triptych.models.published.stored import StoredTensor

# Older versions wrote these tables, which follow from the config, beside the weights.
BUFFERS: Final = re.compile(r"(^|\.)(position_ids|rotary_emb\.inv_freq)$")
NUM_NAMED: Final = 8


@dataclass(frozen=True)
class Spelling:
    """`renamed`: patterns of published names with what to write instead; the first that fits is taken, and a name that
    none fits stays as it is. `ignored`: what else is in such files."""

    renamed: tuple[tuple[str, str], ...] = ()
    ignored: str = r"(?!)"  # nothing

    def ours(self, key: str) -> str | None:
        """None for what we have no use for."""
        if BUFFERS.search(key) or re.match(self.ignored, key):
            return None
        for pattern, replacement in self.renamed:
            name, count = re.subn(pattern, replacement, key)
            if count:
                return name
        return key


PLAIN: Final = Spelling()
# SigLIP and CLIP come as pairs of towers, or as the vision tower alone; transformers 5 names that one without a prefix.
VISION: Final = Spelling(
    ((r"^vision_model\.", ""),), r"text_model\.|logit_scale$|logit_bias$|visual_projection\.|text_projection\."
)
TEXT_ENCODER: Final = Spelling(((r"^text_model\.", ""),))
# Attention in the VAE's middle block before diffusers renamed it; Stable Diffusion 1.4 was published so.
VAE: Final = Spelling(
    (
        (r"(\.attentions\.\d+)\.query\.", r"\1.to_q."),
        (r"(\.attentions\.\d+)\.key\.", r"\1.to_k."),
        (r"(\.attentions\.\d+)\.value\.", r"\1.to_v."),
        (r"(\.attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
    )
)
LLAVA: Final = Spelling(
    (
        (r"^(model\.)?vision_tower\.(vision_model\.)?", "vision."),
        (r"^(model\.)?multi_modal_projector\.", "projector."),
        (r"^(language_model\.)?lm_head\.", "llm.lm_head."),
        (r"^(language_model\.model|model\.language_model)\.", "llm.model."),
    )
)


def match(
    stored: Mapping[str, StoredTensor], module: nn.Module, spelling: Spelling, where: object
) -> dict[str, StoredTensor]:
    """The tensors that `module` wants, by its own names and in its order.

    Raises CheckpointError that names `where` and the keys: missing, unexpected, of a wrong shape or type.
    """
    named: dict[str, StoredTensor] = {}
    sources: dict[str, str] = {}
    twice: list[str] = []
    for key, tensor in stored.items():
        name = spelling.ours(key)
        if name is None:
            continue
        if name in named:
            twice.append(f"{sources[name]} and {key}")
        named[name], sources[name] = tensor, key
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    fitted = {name: _fit(named[name], shape) for name, shape in wanted.items() if name in named}
    complaints = {
        "missing": [name for name in wanted if name not in named],
        "unexpected": [key for name, key in sources.items() if name not in wanted],
        "there twice": twice,
        "of a wrong shape": [
            f"{sources[name]} is {tensor.shape}, must be {wanted[name]}"
            for name, tensor in fitted.items()
            if tensor.shape != wanted[name]
        ],
        f"not stored as {', '.join(NAMES.values())}": [
            sources[name] for name, tensor in fitted.items() if tensor.dtype not in NAMES
        ],
    }
    if found := [f"{what}: {_listed(keys)}" for what, keys in complaints.items() if keys]:
        raise CheckpointError(f"{where}: {'; '.join(found)}")
    return fitted


def under(prefix: str, tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors of one part, without its prefix."""
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _fit(tensor: StoredTensor, shape: tuple[int, ...]) -> StoredTensor:
    """Old files hold some linear layers as 1 x 1 convolutions."""
    if len(shape) == 2 and tensor.shape == (*shape, 1, 1):
        return tensor.reshaped(shape)
    return tensor


def _listed(keys: Iterable[str]) -> str:
    keys = list(keys)
    rest = len(keys) - NUM_NAMED
    return ", ".join(keys[:NUM_NAMED]) + (f" and {rest} more" if rest > 0 else "")
