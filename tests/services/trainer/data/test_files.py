"""Files are there whole or not at all."""

from pathlib import Path

import pytest

from services.trainer.data.files import PARTIAL, atomic, line, read_lines, write_atomic, write_lines


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a"
    write_atomic(path, b"old")
    with pytest.raises(RuntimeError), atomic(path) as file:
        file.write(b"half")
        assert path.read_bytes() == b"old"
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["a"]


def test_lines_hold_any_text(tmp_path: Path) -> None:
    rows = [{"a": "half \ud83d"}, ["\u2028\n"], "é"]
    assert write_lines(tmp_path / "a", iter(rows)) == 3
    assert list(read_lines(tmp_path / "a")) == rows
    assert line(rows[0]).isascii()


def test_the_slower_of_two_writers_may_find_its_file_cleared_away(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with atomic(path) as file:
        file.write(b"same")
        write_atomic(path, b"same")
        next(tmp_path.glob(f".*{PARTIAL}")).unlink()
    assert path.read_bytes() == b"same"
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "b"):
        next(tmp_path.glob(f".*{PARTIAL}")).unlink()
