"""Published configs to the config classes of transformers, with errors that name the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from huggingface_hub.errors import StrictDataclassError

from triptych.errors import CheckpointError

# How attention is computed is for whoever runs the model: a publisher's choice may need what is not installed here.
ATTENTION: Final = {"_attn_implementation", "attn_implementation", "_attn_implementation_internal"}
# What the libraries raise over values that they cannot use, when they read them or when they build a module of them.
UNUSABLE: Final = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
)


@contextmanager
def naming(where: Path) -> Iterator[None]:
    """Raises CheckpointError naming the file when a library cannot use what is in it."""
    try:
        yield
    except UNUSABLE as error:
        said = f"no or no usable {error}" if isinstance(error, KeyError) else error
        raise CheckpointError(f"{where}: {said}") from error


def parse_config(model_class: type[Any], values: dict[str, Any], where: Path) -> Any:
    """The config for `model_class`; what `values` leave out is the library's default.

    Raises CheckpointError naming the file and what is wrong with a value.
    """
    if values.get("quantization_config") is not None:
        raise CheckpointError(f"{where}: quantization_config is set, only plain weights are supported")
    with naming(where):
        config = model_class.config_class.from_dict({k: v for k, v in values.items() if k not in ATTENTION})
    config.architectures = [model_class.__name__]
    config._name_or_path = ""  # equal models, equal files, wherever they were
    return config


def read_part(values: dict[str, Any], key: str, where: Path) -> dict[str, Any]:
    """The config within a config. Raises CheckpointError naming file and key when there is none."""
    part = values.get(key)
    if not isinstance(part, dict):
        raise CheckpointError(f"{where}: no {key!r}")
    return part
