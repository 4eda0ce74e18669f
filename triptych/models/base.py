"""What every component is: built from its config alone, saved to and loaded from its own folder.

Letters in tensor names: B batch, T tokens, N image patches, K `[IMG]` tokens, L conditioning tokens, D width,
C channels, H height, W width. Constructors allocate; they never download, and never look for a device.
"""

import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Cache

from triptych.errors import CheckpointError
from triptych.models.json_file import read_json, read_value
from triptych.registry import Registry


@dataclass(frozen=True, kw_only=True)
class ComponentConfig:
    """Base of a component's config: an unknown key is refused by name."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"{cls.__qualname__}: unknown keys {sorted(unknown)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Component(nn.Module, ABC):
    """A module with a folder of its own; `type_name` is its row in its registry."""

    type_name: ClassVar[str]

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """Reads config and weights; raises CheckpointError naming what is missing."""

    @abstractmethod
    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Writes config and weights, floating-point weights as `dtype`."""


class Encoder(Component):
    """Pictures to features: pixel_values (B, 3, H, W) to (B, N, D), read at hidden layer `feature_layer`."""

    feature_layer: int

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Pixels per side."""

    @property
    @abstractmethod
    def embed_dim(self) -> int: ...

    @property
    @abstractmethod
    def num_patches(self) -> int: ...

    @abstractmethod
    def forward(self, pixel_values_BCHW: Tensor) -> Tensor: ...


class Projector(Component):
    """Features to embeddings in the LLM's input space: (B, N, D_vision) to (B, M, D_llm)."""

    @abstractmethod
    def forward(self, features_BND: Tensor) -> Tensor: ...


class Llm(Component):
    """A causal language model, seen as its parts; the loop around them is the engine's."""

    @property
    @abstractmethod
    def hidden_size(self) -> int: ...

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Rows of its token tables; a tokenizer may have names for fewer."""

    @property
    @abstractmethod
    def max_model_len(self) -> int:
        """Tokens a sequence may hold."""

    @abstractmethod
    def embed(self, input_ids_BT: Tensor) -> Tensor:
        """(B, T) to (B, T, D)."""

    @abstractmethod
    def forward(self, inputs_embeds_BTD: Tensor, past_key_values: Cache | None = None) -> Tensor:
        """Hidden states (B, T, D) after the last norm, the LM head's input. Appends to `past_key_values`."""

    @abstractmethod
    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, T, V)."""


class GenerationHead(Component):
    """Hidden states and embeddings of the `[IMG]` tokens, both (B, K, D), to conditioning (B, L, C)."""

    @abstractmethod
    def forward(self, hidden_BKD: Tensor, embeddings_BKD: Tensor) -> Tensor: ...


class OwnFormat(Component):
    """A component of ours: `config.json` with its type and a frozen config, and `model.safetensors`."""

    Config: type[ComponentConfig]
    config: ComponentConfig

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def load(cls, folder: Path) -> Self:
        config, weights = folder / "config.json", folder / "model.safetensors"
        values = read_json(config)
        if values.pop("type", None) != cls.type_name:
            raise CheckpointError(f"{config}: type is not {cls.type_name!r}")
        try:
            module = cls(cls.Config.from_dict(values))
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:  # torch asserts that sizes divide
            raise CheckpointError(f"{config}: {error}") from error
        try:
            module.load_state_dict(read_weights(weights))
        except RuntimeError as error:
            raise CheckpointError(f"{weights}: {error}") from error
        return module

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        config = {"type": self.type_name, **self.config.to_dict()}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        state = {
            key: (value.to(dtype) if value.is_floating_point() else value).contiguous()
            for key, value in self.state_dict().items()
        }
        save_file(state, folder / "model.safetensors")


def read_class(path: Path, key: str, registry: Registry) -> type[Any]:
    """The class that a config file names. Raises CheckpointError naming the file when it names none that we know."""
    try:
        return registry.load(str(read_value(path, key)))
    except ValueError as error:
        raise CheckpointError(f"{path}: {key}: {error}") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Safetensors as float32. Raises CheckpointError naming the file when it is missing or cut short."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}
