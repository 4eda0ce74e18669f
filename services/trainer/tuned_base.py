"""The checkpoint that tuning starts from, as far as it can be known without loading it."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from triptych.errors import InvalidArgument


def base_digests(base: Path) -> dict[str, str]:
    """The digests of a checkpoint's components, by kind. Raises InvalidArgument when it is none."""
    path = base / "system.json"
    try:
        digests: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["digests"]
    except FileNotFoundError:
        raise InvalidArgument(f"base {base} is no checkpoint: {path} is missing") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidArgument(f"base {base}: {path}: {error!r}") from error
    if missing := [kind for kind in digests if not (base / kind / "card.json").is_file()]:
        raise InvalidArgument(f"base {base}: {', '.join(missing)} is missing")
    return digests


def linear_layers(base: Path) -> set[str]:
    """What the linear layers of the LLM's blocks are called: only the headers of its files are read.

    Raises InvalidArgument when they cannot be.
    """
    names: set[str] = set()
    for path in sorted((base / "llm").glob("model*.safetensors")):
        try:
            with safe_open(path, "np") as file:
                matrices = [key for key in file.keys() if len(file.get_slice(key).get_shape()) == 2]  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise InvalidArgument(f"base {base}: {path}: {error}") from error
        names |= {key.split(".")[-2] for key in matrices if ".layers." in key and key.endswith(".weight")}
    return names
