"""Prints what extras of pyproject.toml ask for, without the project itself: the images' large layers then change with
the dependencies only, not with the code. `python requirements.py llm traces`, beside pyproject.toml.
"""

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def rows(project: dict[str, Any], extra: str) -> Iterator[str]:
    """Requirements of an extra, those of the extras that it names included. Raises KeyError for an unknown one."""
    own = f"{project['name']}["
    for row in project["optional-dependencies"][extra]:
        if row.startswith(own):
            for inner in row.removeprefix(own).partition("]")[0].split(","):
                yield from rows(project, inner)
        else:
            yield row


def main() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {*project["dependencies"], *(row for extra in sys.argv[1:] for row in rows(project, extra))}
    print("\n".join(sorted(wanted)))


if __name__ == "__main__":
    main()
