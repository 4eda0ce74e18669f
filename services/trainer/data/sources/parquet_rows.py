"""Parquet files too large to hold: a few rows at a time, row group by row group."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from triptych.errors import InvalidArgument

ROWS_AT_A_TIME = 64  # with pictures in them, some ten megabytes


def parquet_files(path: Path, pattern: str) -> list[Path]:
    """The file itself, or those of a folder by name. Raises InvalidArgument when there is none."""
    try:
        files = sorted(path.glob(pattern)) if path.is_dir() else [path]
    except (ValueError, NotImplementedError) as error:  # an empty pattern, one that begins at the root
        raise InvalidArgument(f"files = {pattern!r}: {error}") from error
    if not files:
        raise InvalidArgument(f"{path}: no file is named {pattern}")
    return files


def parquet_rows(files: Sequence[Path], columns: Sequence[str], optional: str) -> Iterator[Any]:
    """`{column: value}` for every row of the files; `optional` is a column that need not be there.

    A row whose text is no UTF-8 is given as what is wrong with it, for the reader to refuse. Raises InvalidArgument
    naming the file that is cut off, no parquet, or lacks a column: that is no matter of single records.
    """
    import pyarrow
    from pyarrow.parquet import ParquetFile

    for path in files:
        try:
            # Without buffering a row group ahead: one may hold gigabytes of pictures.
            with ParquetFile(path, pre_buffer=False) as file:
                names = _chosen(path, file.schema_arrow.names, columns, optional)
                for group in range(file.num_row_groups):
                    batches = file.iter_batches(ROWS_AT_A_TIME, row_groups=[group], columns=names, use_threads=False)
                    for batch in batches:
                        yield from _rows(batch)
        except (pyarrow.ArrowException, OSError) as error:
            raise InvalidArgument(f"{path}: {error}") from error


def _chosen(path: Path, found: list[str], columns: Sequence[str], optional: str) -> list[str]:
    if missing := [name for name in columns if name not in found]:
        raise InvalidArgument(f"{path}: no column {', '.join(missing)}; there are {', '.join(found)}")
    return [*columns, optional] if optional in found and optional not in columns else list(columns)


def _rows(batch: Any) -> Iterator[Any]:
    for index in range(batch.num_rows):
        try:
            yield {name: batch.column(name)[index].as_py() for name in batch.schema.names}
        except UnicodeDecodeError as error:
            yield str(error)
