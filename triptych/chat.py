"""The interactive conversation of the command line."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast, get_args

from triptych.client import Client
from triptych.console import Printer, note
from triptych.errors import InvalidArgument, TriptychError
from triptych.replies import Drawing
from triptych.requests import Params, Task, image_bytes

HELP: Final = f"/image PATH attaches a picture, /task {'|'.join(get_args(Task))} says what is asked, /quit ends"


class Chat:
    """Reads lines, answers each. On a terminal a failed turn is reported and the conversation goes on; otherwise it
    ends the program, as in any script.
    """

    def __init__(self, client: Client, output_dir: Path, task: str, params: Params) -> None:
        """Raises InvalidArgument for an unknown task or a folder that is none."""
        if not output_dir.is_dir():
            raise InvalidArgument(f"--output-dir {output_dir} is not a folder")
        self._conversation = client.chat()
        self._output_dir = output_dir
        self._params = params
        self._images: list[bytes] = []
        self._task = _task(task)
        self._is_interactive = sys.stdin.isatty()

    def run(self) -> None:
        """Returns at /quit or at the end of the input."""
        if self._is_interactive:
            note(HELP)
        for line in self._lines():
            if line == "/quit":
                return
            try:
                self._obey(line)
            except (TriptychError, UnicodeError) as error:
                if not self._is_interactive:
                    raise
                note(f"error: {error}")

    def _lines(self) -> Iterator[str]:
        while True:
            try:
                line = input("> " if self._is_interactive else "")
            except EOFError:
                return
            if line.strip():
                yield line.strip()

    def _obey(self, line: str) -> None:
        command, _, rest = line.partition(" ")
        if not line.startswith("/"):
            self._answer(line)
        elif command == "/image":
            self._images.append(image_bytes(_path(rest.strip())))
        elif command == "/task":
            self._task = _task(rest.strip())
        else:
            raise InvalidArgument(f"unknown command {command}: {HELP}")

    def _answer(self, text: str) -> None:
        Printer(self._save).show(self._conversation.stream(text, self._images, self._task, self._params))
        self._images.clear()  # after a failed turn they are still attached

    def _save(self, drawing: Drawing) -> Path:
        """Under the first free name."""
        number = 1
        while (path := self._output_dir / f"image-{number:03}.png").exists():
            number += 1
        try:
            drawing.save(path)
        except OSError as error:
            raise InvalidArgument(f"--output-dir {self._output_dir}: {error.strerror}") from error
        return path


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # the home of nobody here
        raise InvalidArgument(f"image {text!r}: {error}") from error


def _task(name: str) -> Task:
    if name not in get_args(Task):
        raise InvalidArgument(f"task is {name!r}, must be one of {', '.join(get_args(Task))}")
    return cast(Task, name)
