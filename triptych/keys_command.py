"""`triptych keys`: the file of API keys that the orchestrator reads."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Final

import typer

from triptych.errors import InvalidArgument
from triptych.keys import new_key, read_keys, write_keys

Reported = Callable[[], AbstractContextManager[None]]
Name = Annotated[str, typer.Argument(help="whose key it is; stands in the orchestrator's logs")]
File = Annotated[Path, typer.Option(envvar="TRIPTYCH_KEYS_FILE", help="the key file; made when it is not there")]
DEFAULT_FILE: Final = Path("keys.json")


def keys_app(reported: Reported) -> typer.Typer:
    """The subcommands; `reported` turns errors into messages and exit codes."""
    app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make, list and revoke API keys.")

    @app.command()
    def add(
        name: Name,
        file: File = DEFAULT_FILE,
        per_day: Annotated[int, typer.Option(min=0, help="requests in a day (UTC); 0: as many as come")] = 0,
        per_minute: Annotated[int, typer.Option(min=0, help="requests in a minute; 0: as many as come")] = 0,
    ) -> None:
        """Make a key and print it: it is kept nowhere, and shown this once."""
        with reported():
            keys = read_keys(file) if file.exists() else {}
            if any(stored.name == name for stored in keys.values()):
                raise InvalidArgument(f"{file} has a key for {name!r}; revoke it first")
            key, stored = new_key(name, per_day, per_minute)
            write_keys(file, keys | {stored.id: stored})
            print(key)

    @app.command("list")
    def list_(file: File = DEFAULT_FILE) -> None:
        """Show whose keys there are, and their limits."""
        with reported():
            for stored in read_keys(file).values():
                limits = f"{stored.per_day or 'any'} a day, {stored.per_minute or 'any'} a minute"
                print(f"{stored.name}: {limits}{', disabled' if stored.disabled else ''}")

    @app.command()
    def revoke(name: Name, file: File = DEFAULT_FILE) -> None:
        """Take a key away. A running orchestrator notices within a second."""
        with reported():
            keys = read_keys(file)
            left = {id_: stored for id_, stored in keys.items() if stored.name != name}
            if len(left) == len(keys):
                raise InvalidArgument(f"{file} has no key for {name!r}")
            write_keys(file, left)

    return app
