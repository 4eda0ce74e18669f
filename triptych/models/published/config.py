"""Published configs to the config classes of transformers, with errors that name the file."""

from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from triptych.errors import CheckpointError


def parse_config(model_class: type[Any], values: dict[str, Any], where: Path) -> Any:
    """The config for `model_class`; what `values` leave out is the library's default.

    Raises CheckpointError naming the file and what is wrong with a value.
    """
    try:
        config = model_class.config_class.from_dict(values)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise CheckpointError(f"{where}: {error}") from error
    config.architectures = [model_class.__name__]
    config._name_or_path = ""  # equal models, equal files, wherever they were
    return config
