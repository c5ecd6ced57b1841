"""Tables that people typed or saved from a spreadsheet, as text, or as Parquet."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from assets.home import read_whole
from models.errors import FoveaError
from models.validation import unknown

if TYPE_CHECKING:
    import pandas as pd


def read_sheet(file: Path, needed: Sequence[str], further: Sequence[str] | None = None) -> "pd.DataFrame":
    """The rows of a CSV as stripped texts, "" where a row is short; the index is each row's line, attrs["short"] the short
    rows' lines.

    further: other columns that there may be; None: any. Cells end at commas, semicolons or tabs, whichever finds the
    needed columns; their capitals don't matter. UTF-8, UTF-16, else Latin-1. Raises FoveaError that names file and
    line: unreadable, a needed column missing or twice, a row with more cells than the header, a quote that does not
    end.
    """
    data = read_whole(file)
    if data.startswith(_WORKBOOKS):
        raise FoveaError(f"{file}: an Excel workbook, whatever it is called: save the table as CSV")
    try:
        text = _decoded(data)
    except UnicodeDecodeError as error:
        raise FoveaError(f"{file}: not a text file: save the table as CSV") from error
    if re.search(r"[\0-\x08\x0e-\x1f]", text[:1000]):
        raise FoveaError(f"{file}: not a text file: save the table as CSV")
    text = re.sub(r"\Asep=.(?=\r?\n)", "", text)  # what Excel writes to know its own delimiter again
    head = next((line for line in text.splitlines() if line.strip()), "")
    if not head:
        raise FoveaError(f"{file}: the table is empty")

    def found(delimiter: str) -> int:
        return len({c.strip().lower() for c in next(csv.reader([head], delimiter=delimiter))} & set(needed))

    try:
        delimiter = max(",;\t", key=found)
    except csv.Error as error:
        raise FoveaError(f"{file}, line 1: {error}: not a table") from error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    columns: list[str] = []
    rows: dict[int, list[str]] = {}
    short = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not columns:
                columns = _columns(file, cells, needed, further)
                continue
            if any(cells[len(columns) :]):
                raise FoveaError(
                    f"{file}, line {reader.line_num}: {len(cells)} cells, the header has {len(columns)}; a cell with a "
                    f"{delimiter!r} in it (a decimal comma?) must stand in quotes"
                )
            if len(cells) < len(columns):
                short.append(reader.line_num)
            rows[reader.line_num] = (cells + [""] * len(columns))[: len(columns)]
    except csv.Error as error:
        begun = next(reversed(rows), 1) + 1
        raise FoveaError(f"{file}, from line {begun} on: {error} (a quote that does not end?)") from error
    import pandas as pd

    table = pd.DataFrame(list(rows.values()), list(rows), columns, dtype=str)
    table.attrs["short"] = short
    return table


SHEETS = (".csv", ".tsv")
_WORKBOOKS = (b"PK\3\4", b"\xd0\xcf\x11\xe0")
"""Beginnings of .xlsx and .ods, and of .xls."""


def read_table(file: Path, needed: Sequence[str], what: str) -> "pd.DataFrame":
    """A Parquet file with its own types, or what `read_sheet` gives. what: the table is, for messages ("table of texts").

    Raises FoveaError that names the file: no such one, not a table, a needed column missing; and as `read_sheet`.
    """
    import pandas as pd

    if not file.is_file():
        raise FoveaError(f"no {what} {file}")
    if file.suffix.lower() in SHEETS:
        return read_sheet(file, needed)
    if file.suffix.lower() not in (".parquet", ".pq"):
        raise FoveaError(f"{file}: a {what} is a .parquet, .csv or .tsv file")
    try:
        table = pd.read_parquet(file)
    except (OSError, ValueError) as error:
        raise FoveaError(f"{file}: can't be read as a table: {error}") from error
    _check_needed(file, list(map(str, table.columns)), needed)
    return table


def numbers(texts: "pd.Series", file: Path) -> "pd.Series":
    """Pixels as float64, NaN for what is no number; a lone comma is a decimal one. Raises FoveaError where it may be one of
    thousands as well: 1,234 in a column whose commas are all followed by three digits, and no number would be beyond 100,000."""
    import pandas as pd

    texts = texts.astype(str)
    commas = texts[texts.str.contains(",", regex=False)]
    grouped = commas.str.fullmatch(r" *[1-9]\d{0,2},\d{3} *")
    if len(commas) and grouped.all() and commas.str.replace(",", "").astype(int).max() < 100_000:
        raise FoveaError(
            f"{file}: column {texts.name}: {commas.iloc[0].strip()!r} may be {commas.iloc[0].strip().replace(',', '')} or "
            f"{commas.iloc[0].strip().replace(',', '.')}: save the table without a comma in numbers"
        )
    return pd.to_numeric(texts.str.replace(",", "."), errors="coerce").astype(float)


def check_pixels(file: Path, *columns: "pd.Series") -> None:
    """Raises FoveaError for coordinates that are all at most 1: shares of the picture's sides in place of pixels."""
    if len(columns[0]) and all(column.max() <= 1 for column in columns):
        raise FoveaError(
            f"{file}: no {' or '.join(str(column.name) for column in columns)} is above 1: pixels are needed, not shares of the "
            "picture; multiply them by its width and height"
        )


def _decoded(data: bytes) -> str:
    if b"\0" in data[:64] or data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        little = data[:2] == b"\xff\xfe" or data[1:2] == b"\0"
        return data.decode("utf-16-le" if little else "utf-16-be").lstrip("\ufeff")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _check_needed(file: Path, columns: Sequence[str], needed: Sequence[str]) -> None:
    if missing := [name for name in needed if name not in columns]:
        raise FoveaError(
            f"{file}: no column {', '.join(missing)}; needed are {', '.join(needed)} (found {', '.join(columns)})"
        )


def _columns(file: Path, cells: Sequence[str], needed: Sequence[str], further: Sequence[str] | None) -> list[str]:
    known = (*needed, *(further or ()))
    columns = [cell.lower() if cell.lower() in known else cell for cell in cells]
    for name in needed:
        if columns.count(name) > 1:
            raise FoveaError(f"{file}: the column {name} stands there twice")
    _check_needed(file, columns, needed)
    if further is not None and (strange := [name for name in columns if name and name not in known]):
        raise FoveaError(f"{file}: {unknown('column', strange[0], known)}")
    return columns
