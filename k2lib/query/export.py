"""Frames as files or text: JSON, CSV, Parquet, Arrow, or a table for people."""

import io
import json
import shutil
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, get_args

import polars as pl
from polars.interchange import CompatLevel
from rich.console import Console
from rich.table import Table

from k2lib.errors import QueryError
from k2lib.reasons import with_remedy

Format = Literal["table", "json", "csv", "parquet", "arrow"]
ROWS_SHOWN: Final = 40
WIDEST: Final = 10_000
NARROWEST: Final = 40
BINARY: Final = ("parquet", "arrow")
ISO_MICROSECONDS: Final = "%Y-%m-%dT%H:%M:%S%.6f"


def write(frame: pl.DataFrame, form: Format, *, output: Path | None, stdout: BinaryIO) -> None:
    """Write a frame to a file, or to standard output where no file is given.

    Raises:
        QueryError: no such format, bytes asked for on a terminal, or a file that cannot be written.
    """
    if output is None:
        _check_stdout(form, stdout)
        stdout.write(_rendered_for(frame, form, stdout))
        stdout.flush()
        return
    try:
        output.write_bytes(render(frame, form))
    except OSError as exc:
        reason = with_remedy(exc.strerror or str(exc), otherwise="name another file")
        raise QueryError(f"--output {output}: cannot be written: {reason}") from exc


def as_format(name: str) -> Format:
    """Return the format of a name.

    Raises:
        QueryError: there is no such format; the message lists them.
    """
    for form in RENDERERS:
        if form == name:
            return form
    raise QueryError(f"--format {name}: give one of {', '.join(get_args(Format))}")


def render(frame: pl.DataFrame, form: Format) -> bytes:
    """Return a frame in one of the formats.

    json is an array of objects and csv has a header; in both, decimals keep their digits (as
    text in json), times are ISO 8601 in UTC with microseconds, bytes are base64, and lists and
    maps are JSON. parquet and arrow (an IPC stream) keep the native types.
    """
    return RENDERERS[as_format(form)](frame)


def text_table(frame: pl.DataFrame, *, width: int = WIDEST) -> str:
    """Return a frame as a table to look at: the first 40 rows, numbers to the right."""
    table = Table(box=None, pad_edge=False, header_style="", show_edge=False)
    for name, kind in frame.schema.items():
        side: Literal["left", "right"] = "right" if kind.is_numeric() else "left"
        table.add_column(_escaped(name), justify=side, overflow="fold")
    for row in frame.head(ROWS_SHOWN).iter_rows():
        table.add_row(*(_escaped(_shown(value)) for value in row))
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as captured:
        console.print(table)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    return "\n".join([*lines, *_rest(frame)]) + "\n"


def _check_stdout(form: Format, stdout: BinaryIO) -> None:
    if form in BINARY and stdout.isatty():
        raise QueryError(f"--format {form} is not for a terminal: name a file with --output FILE")


def _rendered_for(frame: pl.DataFrame, form: Format, stdout: BinaryIO) -> bytes:
    if form == "table" and stdout.isatty():
        columns = max(shutil.get_terminal_size().columns, NARROWEST)
        return text_table(frame, width=columns).encode()
    return render(frame, form)


def _as_table(frame: pl.DataFrame) -> bytes:
    return text_table(frame).encode()


def json_array(frame: pl.DataFrame) -> bytes:
    """Return rows as a JSON array of objects, with values as `render` has them."""
    if not _is_plain(frame):
        return f"[{','.join(json_rows(frame))}]".encode()
    return plain_columns(frame).write_json().encode()


def json_rows(frame: pl.DataFrame) -> list[str]:
    """Return each row as a JSON object, with values as `render` has them."""
    if not frame.columns:
        return []
    if not _is_plain(frame):
        columns = [_values(column) for column in frame.iter_columns()]
        rows = (dict(zip(frame.columns, row, strict=True)) for row in zip(*columns, strict=True))
        return list(map(_json, rows))
    row = pl.struct(pl.all()).struct.json_encode()
    lines: list[str] = plain_columns(frame).select(row.alias("row"))["row"].to_list()
    return lines


def csv_text(frame: pl.DataFrame) -> str:
    """Return rows as CSV with a header, with values as `render` has them."""
    return pl.DataFrame([_cells(column) for column in frame.iter_columns()]).write_csv()


def plain_columns(frame: pl.DataFrame) -> pl.DataFrame:
    """Return columns as JSON and CSV can have them: numbers, booleans, texts, nested as is."""
    return frame.with_columns(map(_scalars, frame.iter_columns()))


def _as_json(frame: pl.DataFrame) -> bytes:
    return ("[" + ",\n ".join(json_rows(frame)) + "]\n").encode()


def _as_csv(frame: pl.DataFrame) -> bytes:
    return csv_text(frame).encode()


def _as_parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def _as_arrow(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_ipc_stream(buffer, compat_level=CompatLevel.oldest())
    return buffer.getvalue()


RENDERERS: Final[dict[Format, Callable[[pl.DataFrame], bytes]]] = {
    "table": _as_table,
    "json": _as_json,
    "csv": _as_csv,
    "parquet": _as_parquet,
    "arrow": _as_arrow,
}


def _is_plain(frame: pl.DataFrame) -> bool:
    """Whether Polars writes the nested columns as they are; else they are taken apart in Python."""
    return all(_has_plain_values(kind) for kind in frame.dtypes if kind.is_nested())


def _has_plain_values(kind: pl.DataType) -> bool:
    match kind:
        case pl.List() | pl.Array():
            return _has_plain_values(_inner(kind.inner))
        case pl.Map():
            return kind.key == pl.String and _has_plain_values(_inner(kind.value))
        case pl.Struct():
            return all(_has_plain_values(_inner(field.dtype)) for field in kind.fields)
    return kind in (pl.String, pl.Boolean, pl.Null) or kind.is_integer()


def _inner(kind: Any) -> pl.DataType:
    return kind if isinstance(kind, pl.DataType) else kind()


def _cells(column: pl.Series) -> pl.Series:
    if not column.dtype.is_nested():
        return _scalars(column)
    if _has_plain_values(column.dtype):
        return _nested_as_json(column)
    texts = [None if value is None else _json(value) for value in _values(column)]
    return pl.Series(column.name, texts, dtype=pl.String)


def _nested_as_json(column: pl.Series) -> pl.Series:
    """Polars writes structs alone as JSON, so the braces of one around it are cut off."""
    wrapped = pl.struct(pl.col(column.name).alias("v")).struct.json_encode()
    text = wrapped.str.strip_prefix('{"v":').str.strip_suffix("}")
    cells = pl.when(pl.col(column.name).is_not_null()).then(text).alias(column.name)
    return column.to_frame().select(cells).to_series()


def _values(column: pl.Series) -> list[Any]:
    if column.dtype.is_nested():
        return [_plain(value) for value in column.to_list()]
    return _scalars(column).to_list()


def _scalars(column: pl.Series) -> pl.Series:
    """A column in what JSON and CSV can say: numbers, booleans and text."""
    match column.dtype:
        case pl.Datetime(time_zone=None):
            return column.dt.strftime(ISO_MICROSECONDS)
        case pl.Datetime():
            return column.dt.convert_time_zone("UTC").dt.strftime(ISO_MICROSECONDS + "Z")
        case pl.Duration():
            return column.dt.to_string("iso")
        case pl.Binary():
            return column.bin.encode("base64")
    if column.dtype.is_float():
        return column.to_frame().select(pl.when(pl.all().is_finite()).then(pl.all())).to_series()
    if column.dtype.is_decimal() or column.dtype.is_temporal():
        return column.cast(pl.String)
    return column


def _json(plain: object) -> str:
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":"))


def _plain(value: Any) -> Any:
    """A value inside a list or map, as `_scalars` says it."""
    match value:
        case None | str() | bool() | int():
            return value
        case dict():
            return {str(key): _plain(one) for key, one in value.items()}
        case list():
            return [_plain(one) for one in value]
    return _scalars(pl.Series([value])).item()


def _shown(value: Any) -> str:
    match value:
        case None:
            return ""
        case str():
            return value
        case Decimal():
            return _trimmed(f"{value:f}")
        case datetime():
            return _trimmed(f"{value:%Y-%m-%d %H:%M:%S.%f}")
        case dict() | list():
            return json.dumps(_plain(value), ensure_ascii=False)
    return str(value)


def _trimmed(digits: str) -> str:
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")


def _rest(frame: pl.DataFrame) -> list[str]:
    left = frame.height - ROWS_SHOWN
    return [f"… {left:,} more rows"] if left > 0 else []
