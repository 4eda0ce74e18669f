"""API keys in a file: a salted hash, a name and limits for each; never the key itself. Plain Python.

A key is `tk_<id>_<secret>`. The secret is 32 random bytes, so that one SHA-256 is as hard to turn back as a slow hash
of a password would be, and costs a microsecond per call; the id finds the entry without trying them all.
"""

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from triptych import strict_json
from triptych.errors import InvalidArgument
from triptych.private_file import write_private

PREFIX: Final = "tk"
SECRET_BYTES: Final = 32
MAX_FILE_BYTES: Final = 16 * 2**20
_KEY: Final = re.compile(rf"{PREFIX}_([0-9a-f]{{16}})_([A-Za-z0-9_-]{{43}})")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True)
class StoredKey:
    """One entry. `per_day` and `per_minute` bound the requests, 0: unbounded. A disabled key is known and refused."""

    id: str
    name: str
    salt: str
    hash: str
    per_day: int = 0
    per_minute: int = 0
    disabled: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidArgument(f"name is {self.name!r}, must be 1 to 64 letters, digits and . _ @ -")
        for field in ("per_day", "per_minute"):
            value = getattr(self, field)
            if type(value) is not int or value < 0:
                raise InvalidArgument(f"{field} of {self.name} is {value!r}, must be a number from 0 up")


def new_key(name: str, per_day: int = 0, per_minute: int = 0) -> tuple[str, StoredKey]:
    """The key, which nothing keeps, and its entry."""
    id_, secret, salt = secrets.token_hex(8), secrets.token_urlsafe(SECRET_BYTES), secrets.token_hex(16)
    return f"{PREFIX}_{id_}_{secret}", StoredKey(id_, name, salt, _hash(salt, secret), per_day, per_minute)


def looks_like_key(text: str) -> bool:
    """Whether `text` is meant as one of these keys rather than as a JWT."""
    return text.startswith(f"{PREFIX}_")


def find(keys: Mapping[str, StoredKey], text: str) -> StoredKey | None:
    """The entry (`keys` by id) whose key `text` is; compared in constant time."""
    match = _KEY.fullmatch(text)
    stored = keys.get(match[1]) if match else None
    if match is None or stored is None:
        return None
    return stored if hmac.compare_digest(_hash(stored.salt, match[2]), stored.hash) else None


def read_keys(path: Path) -> dict[str, StoredKey]:
    """By id. Raises InvalidArgument naming the file, and the entry by its place, when it is no key file."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InvalidArgument(f"{path} has more than {MAX_FILE_BYTES} bytes")
        values = strict_json.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{path}: {type(error).__name__}: {error}") from error
    entries = values.get("keys") if isinstance(values, dict) else None
    if not isinstance(entries, list):
        raise InvalidArgument(f'{path}: must be an object with a list "keys"')
    found: dict[str, StoredKey] = {}
    for index, entry in enumerate(entries):
        try:
            stored = _entry(entry)
        except InvalidArgument as error:
            raise InvalidArgument(f"{path}: keys[{index}]: {error}") from error
        if stored.id in found:
            raise InvalidArgument(f"{path}: keys[{index}] has the id of another")
        found[stored.id] = stored
    return found


def write_keys(path: Path, keys: Mapping[str, StoredKey]) -> None:
    """Replaces the file whole, readable by its owner alone."""
    text = json.dumps({"keys": [asdict(stored) for stored in keys.values()]}, indent=1) + "\n"
    write_private(path, text.encode())


def _entry(entry: object) -> StoredKey:
    known = {field.name: field.type for field in fields(StoredKey)}
    if not isinstance(entry, dict) or set(entry) - set(known) or {"id", "name", "salt", "hash"} - set(entry):
        raise InvalidArgument(f"must be an object with id, name, salt, hash, and at most {', '.join(list(known)[4:])}")
    values: dict[str, Any] = dict(entry)
    if not all(isinstance(values[name], str) for name in ("id", "name", "salt", "hash")):
        raise InvalidArgument("id, name, salt and hash must be text")
    if type(values.get("disabled", False)) is not bool:
        raise InvalidArgument("disabled must be true or false")
    return StoredKey(**values)


def _hash(salt: str, secret: str) -> str:
    return hashlib.sha256(f"{salt}:{secret}".encode()).hexdigest()
