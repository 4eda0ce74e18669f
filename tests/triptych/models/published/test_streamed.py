"""A streamed module computes what it would with its weights in memory, and holds none before and after."""

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from triptych.models.published.stored import StoredTensor
from triptych.models.published.streamed import build_empty, stream

CONFIG = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}


class Reads:
    """Tensors as files would give them, with a record of which were asked for."""

    def __init__(self, module: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        self.names: list[str] = []
        self._state = {key: value.to(dtype) for key, value in module.state_dict().items()}

    def tensors(self) -> dict[str, StoredTensor]:
        return {
            key: StoredTensor(value.dtype, tuple(value.shape), lambda key=key: self._read(key))  # type: ignore[misc]
            for key, value in self._state.items()
        }

    def _read(self, key: str) -> Tensor:
        self.names.append(key)
        return self._state[key]


def llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**CONFIG, num_attention_heads=4)).eval()


@torch.no_grad()
def test_same_numbers() -> None:
    torch.manual_seed(0)
    whole, ids = llama(), torch.arange(9)[None]
    reads, empty = Reads(whole), build_empty(llama)
    assert all(parameter.is_meta for parameter in empty.parameters())
    stream(empty, reads.tensors())
    assert reads.names == []
    for _ in range(2):  # nothing is left of the first run
        assert torch.equal(empty(ids).logits, whole(ids).logits)
    assert len(reads.names) == 2 * len(whole.state_dict())


@torch.no_grad()
def test_nothing_stays_in_memory() -> None:
    whole = llama()
    empty = build_empty(llama)
    stream(empty, Reads(whole, torch.float16).tensors())
    empty(torch.arange(9)[None])
    for parameter in empty.parameters():
        assert parameter.untyped_storage().nbytes() == 4
        assert (parameter.dtype, parameter.device.type) == (torch.float32, "cpu")


class Borrowing(nn.Module):
    """Uses a submodule's weight without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.inner.weight.T


def test_a_borrowed_weight_is_nan() -> None:
    module = build_empty(Borrowing)
    stream(module, Reads(Borrowing()).tensors())
    assert module(torch.ones(1, 2)).isnan().all()


def test_a_missing_tensor_is_not_passed_over() -> None:
    with pytest.raises(KeyError, match=r"inner\.weight"):
        stream(build_empty(Borrowing), {})
