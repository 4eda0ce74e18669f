"""Names to classes, imported when asked for."""

import subprocess
import sys

import pytest

from triptych.registry import Registry

TABLE = {"ordered": "collections:OrderedDict", "gone": "triptych.nowhere:Gone"}


def test_loads_the_class() -> None:
    assert Registry("mapping", TABLE).load("ordered").__name__ == "OrderedDict"


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"unknown encoder 'siglop', known: gone, ordered"):
        Registry("encoder", TABLE).load("siglop")


def test_iterates_over_names() -> None:
    registry = Registry("mapping", TABLE)
    assert list(registry) == ["ordered", "gone"]
    assert "ordered" in registry
    assert len(registry) == 2


def test_a_later_change_of_the_table_does_not_reach_in() -> None:
    table = dict(TABLE)
    registry = Registry("mapping", table)
    table.clear()
    assert len(registry) == 2


def test_imports_only_when_asked() -> None:
    code = (
        "import sys; from triptych.registry import Registry; r = Registry('x', {'a': 'wave:Wave_read'});"
        "assert 'wave' not in sys.modules; r.load('a'); assert 'wave' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
