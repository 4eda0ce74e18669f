"""`python -m services.trainer.ablations.pack TABLE.toml -o FOLDER`: what the table's rows start from, out of the
finished base run, small enough to ship. A table whose `parts` name that folder needs no base run.
"""

import argparse
import shutil
import sys
from pathlib import Path

from services.trainer.ablations import parts
from services.trainer.ablations.table import Table
from services.trainer.done import FILE
from triptych.errors import InvalidArgument, TriptychError

# What rows read of a stage's output; all of it where nothing is said.
READ = {"unet": ("unet", "text", "null_conditioning.npy"), "understanding": ("encoder", "llm")}
WEIGHTS = ".safetensors"


def pack(table: Table, out: Path) -> None:
    """Weights are rounded to bfloat16, done.json says as before by which settings they were made.

    Raises InvalidArgument when `out` exists, FailedPrecondition when the base run has not finished a stage.
    """
    if out.exists():
        raise InvalidArgument(f"{out} exists")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for stage in parts.needed(table):
        folder = parts.finished(table, stage)
        made = partial / stage / parts.OUTPUT
        for path in sorted((folder / parts.OUTPUT).rglob("*")):
            name = path.relative_to(folder / parts.OUTPUT)
            if path.is_file() and name.parts[0] in READ.get(stage, name.parts):
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                _copy(path, made / name)
        shutil.copy(folder / FILE, partial / stage / FILE)
    partial.rename(out)


def _copy(path: Path, to: Path) -> None:
    if path.suffix != WEIGHTS:
        shutil.copy(path, to)
        return
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no mapping)
        metadata = file.metadata()
    rounded = {key: value.to(torch.bfloat16) if value.is_floating_point() else value for key, value in tensors.items()}
    save_file(rounded, to, metadata)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m services.trainer.ablations.pack", description=__doc__)
    parser.add_argument("table", type=Path, help="one of recipes/ablations/*.toml")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the folder, which must not exist")
    args = parser.parse_args(argv)
    try:
        pack(Table.read(args.table), args.out)
    except TriptychError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if error.code == "INVALID_ARGUMENT" else 1
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
