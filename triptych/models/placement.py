"""Where and how precisely a component runs. Asked for by name at the edge, decided here when the process starts."""

from dataclasses import dataclass
from typing import Final, Literal, Self, TypeVar

import torch
from torch import nn
from transformers.utils import logging as transformers_logging

from triptych.errors import FailedPrecondition

DTYPES: Final = {"f32": torch.float32, "bf16": torch.bfloat16}

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Placement:
    """A device and a compute dtype, by the names the services show: "cuda:0", "bf16"."""

    device: str
    dtype: str

    @classmethod
    def choose(cls, device: Literal["auto", "cpu", "cuda"], dtype: Literal["auto", "f32", "bf16"]) -> Self:
        """auto: CUDA where there is one; bf16 there, f32 on the CPU. Raises FailedPrecondition without one."""
        has_cuda = torch.cuda.is_available()
        if device == "cuda" and not has_cuda:
            raise FailedPrecondition("device is cuda, but torch sees no CUDA device: use cpu or auto")
        on_cuda = has_cuda and device != "cpu"
        precision = ("bf16" if on_cuda else "f32") if dtype == "auto" else dtype
        return cls("cuda:0" if on_cuda else "cpu", precision)

    def place(self, module: M) -> M:
        """Moves `module` and rounds its parameters, those that were not loaded so. Buffers keep their precision: rotary
        frequencies in bf16 would misplace every later token."""
        module.to(self.device)
        for parameter in module.parameters():
            parameter.data = parameter.data.to(DTYPES[self.dtype])
        return module


def prepare_torch(num_threads: int) -> None:
    """For a process that runs a component: so many CPU threads (0: torch's own choice), and no progress bars, since
    stderr is for log lines.
    """
    transformers_logging.disable_progress_bar()
    if num_threads:
        torch.set_num_threads(num_threads)
