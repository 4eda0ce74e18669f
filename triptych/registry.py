"""Names to classes: looked up in an explicit table of strings; a module is imported only when it is asked for."""

import importlib
from collections.abc import Iterator
from typing import Any


class Registry:
    """`table` maps a type name to "module:Class"; `kind` says what the names are, for the error."""

    def __init__(self, kind: str, table: dict[str, str]) -> None:
        self.kind = kind
        self._table = dict(table)

    def load(self, name: str) -> type[Any]:
        """The class behind `name`. Raises ValueError listing the known names."""
        if name not in self._table:
            raise ValueError(f"unknown {self.kind} {name!r}, known: {', '.join(sorted(self._table))}")
        module, _, attribute = self._table[name].partition(":")
        loaded: type[Any] = getattr(importlib.import_module(module), attribute)
        return loaded

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)
