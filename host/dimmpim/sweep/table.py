"""Table of a sweep: a row for each configuration, as CSV or Parquet with the same content."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pimspec.errors import ParameterError, require

__all__ = ["ERROR", "SUFFIXES", "Column", "Row", "TableLayout", "read_rows", "require_suffix", "table_bytes"]

Row = dict[str, Any]
"""Values by column name; None where there is no value."""

SUFFIXES = (".csv", ".parquet")
ERROR = "error"
"""Column with the reason why there are no figures."""
_LARGEST = (1 << 63) - 1


@dataclass(frozen=True)
class Column:
    """One column.

    Parameters
    ----------
    name : str
    kind : type
        str, int (64 bits) or float.
    """

    name: str
    kind: type

    def value(self, given: Any) -> Any:
        """Value in the column's type.

        Raises
        ------
        ParameterError
            If it is an integer of more than 64 bits.
        """
        if given is None:
            return None
        value = self.kind(given)
        if self.kind is int:
            require(abs(value) <= _LARGEST, self.name, value, "an integer of 64 bits")
        return value


@dataclass(frozen=True, kw_only=True)
class TableLayout:
    """Columns of a table, in this order, with :data:`ERROR` between inputs and figures.

    Parameters
    ----------
    inputs, figures : tuple of Column
    """

    inputs: tuple[Column, ...]
    figures: tuple[Column, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        return (*self.inputs, Column(ERROR, str), *self.figures)

    def key(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """Key of a configuration: all of its inputs."""
        return tuple(row[column.name] for column in self.inputs)

    def row(self, values: Mapping[str, Any]) -> Row:
        """Row with all columns, None for those that `values` lacks."""
        return {column.name: column.value(values.get(column.name)) for column in self.columns}


def require_suffix(option: str, path: Path) -> None:
    """Check that the name of a file ends in a known suffix."""
    require(path.suffix.lower() in SUFFIXES, option, str(path), f"a file whose name ends in {' or '.join(SUFFIXES)}")


def table_bytes(layout: TableLayout, rows: Sequence[Row], suffix: str) -> bytes:
    """Content of the whole file; the same rows give the same bytes."""
    return _csv(layout, rows) if suffix.lower() == ".csv" else _parquet(layout, rows)


def _csv(layout: TableLayout, rows: Iterable[Row]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    names = [column.name for column in layout.columns]
    writer.writerow(names)
    writer.writerows([row[name] for name in names] for row in rows)  # floats in full, None as nothing
    return out.getvalue().encode()


def _parquet(layout: TableLayout, rows: Sequence[Row]) -> bytes:
    import pyarrow  # noqa: PLC0415 - slow to import
    import pyarrow.parquet  # noqa: PLC0415

    kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    schema = pyarrow.schema([(column.name, kinds[column.kind]) for column in layout.columns])
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema=schema), out)
    return out.getvalue()


def read_rows(layout: TableLayout, path: Path) -> list[Row]:
    """Rows of a file that :func:`table_bytes` made.

    Raises
    ------
    ParameterError
        If the file is malformed, or from a sweep with other columns.
    OSError
    """
    read: Callable[[Path], tuple[list[str], list[list[Any]]]]
    read = _read_csv if path.suffix.lower() == ".csv" else _read_parquet
    names, lines = read(path)
    expected = [column.name for column in layout.columns]
    require(names == expected, f"columns of {path}", ", ".join(names), "those of this sweep: write to another file")
    rows = []
    for number, line in enumerate(lines, start=1):
        require(len(line) == len(names), f"cells in row {number} of {path}", len(line), f"{len(names)}")
        try:
            rows.append(
                layout.row({name: None if cell == "" else cell for name, cell in zip(names, line, strict=True)})
            )
        except ValueError as error:
            raise ParameterError(f"{path}, row {number}: {error}") from None
    return rows


def _read_csv(path: Path) -> tuple[list[str], list[list[Any]]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is not readable CSV: {error}") from None
    require(bool(lines), str(path), "empty", "a table with a line of names")
    return lines[0], list(lines[1:])


def _read_parquet(path: Path) -> tuple[list[str], list[list[Any]]]:
    import pyarrow  # noqa: PLC0415 - slow to import
    import pyarrow.parquet  # noqa: PLC0415

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise ParameterError(f"{path} is not readable Parquet: {str(error).splitlines()[0]}") from None
    names = list(table.column_names)
    return names, [[row[name] for name in names] for row in table.to_pylist()]
