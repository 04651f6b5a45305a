"""A file of outcomes, JSON lines or CSV, as what was said of which trace, session or tag. No store, no clock.

Each line has the field it is joined by (`trace_id`, `session`, or the tag's own name), the fields of
`POST /api/feedback`, and optionally `at`, when it was said. Other columns are refused, but for those that are
named as signals: each becomes a signal of its own name.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TextIO

import msgspec

from gateway.errors import UsageError
from gateway.traces.assembling.said import Said, Statement, signal

MAX_LINE_CHARACTERS = 1 << 20  # as the body of a request may have
JoinedOn = Literal["trace", "session", "tag"]
_FIELDS = (*Said.__struct_fields__, "at")


class Outcome(msgspec.Struct, frozen=True):
    """One line: what it is about, what it says, and when that was said (None: it does not say)."""

    line: int
    key: str
    said: list[Statement]
    at: datetime | None


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """How a file is read: the column that joins it, and those that are signals."""

    key: str
    signals: tuple[str, ...] = ()


def columns_of(on: JoinedOn, tag: str | None, signals: Sequence[str] = ()) -> Columns:
    """Raises UsageError where *tag* and *signals* do not fit."""
    if (on == "tag") != (tag is not None):
        raise UsageError("--on tag and --tag NAME belong together: the tag's name is the column joined by")
    key = tag if tag is not None else {"trace": "trace_id", "session": "session"}[on]
    for name in (*signals, *([tag] if tag else [])):
        if name in _FIELDS or (name == key and name in signals):
            raise UsageError(
                f"{name!r} is a field of feedback or what is joined by; it cannot be named here too"
            )
    return Columns(key=key, signals=tuple(signals))


def read_outcomes(path: Path, columns: Columns) -> Iterator[Outcome]:
    """The lines of *path*, as they are read. Raises UsageError naming file, line and field."""
    read = {".csv": _csv, ".jsonl": _json_lines, ".ndjson": _json_lines}.get(path.suffix.lower())
    if read is None:
        raise UsageError(f"{path}: neither .csv nor .jsonl; the name says how a file is read")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, fields in read(path, file, columns):
                try:
                    yield _outcome(number, fields, columns)
                except (ValueError, msgspec.ValidationError) as error:
                    raise UsageError(f"{path}:{number}: {error}") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8, near byte {error.start} of what was read") from error


def _csv(path: Path, file: TextIO, columns: Columns) -> Iterator[tuple[int, dict[str, Any]]]:
    read_as_numbers = {"rating", "value", *columns.signals}
    rows = csv.DictReader(_bounded(path, file), strict=True, restkey="")
    try:
        names = rows.fieldnames or []
        if not names or len(set(names)) != len(names):
            raise UsageError(f"{path}:1: the first line must name each column, once")
        for row in rows:
            if "" in row or None in row.values():
                raise UsageError(f"{path}:{rows.line_num}: not as many cells as the first line has names")
            stated = {name: text for name, text in row.items() if text != ""}
            yield (
                rows.line_num,
                {name: _cell(text) if name in read_as_numbers else text for name, text in stated.items()},
            )
    except csv.Error as error:
        raise UsageError(f"{path}:{rows.line_num + 1}: {error}") from error


def _cell(text: str) -> float | bool | str:
    """A number, yes or no where *text* is one."""
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def _json_lines(path: Path, file: TextIO, columns: Columns) -> Iterator[tuple[int, dict[str, Any]]]:
    del columns  # JSON says itself what is a number
    for number, text in enumerate(_bounded(path, file), 1):
        if not text.strip():
            continue
        try:
            fields = msgspec.json.decode(text, type=dict[str, Any])
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise UsageError(f"{path}:{number}: {error}") from error
        yield number, {name: value for name, value in fields.items() if value is not None}


def _bounded(path: Path, file: TextIO) -> Iterator[str]:
    number = 0
    while text := file.readline(MAX_LINE_CHARACTERS + 1):
        number += 1
        if len(text) > MAX_LINE_CHARACTERS:
            raise UsageError(f"{path}:{number}: a line of over MAX_LINE_CHARACTERS ({MAX_LINE_CHARACTERS})")
        yield text


def _outcome(number: int, fields: dict[str, Any], columns: Columns) -> Outcome:
    key = fields.pop(columns.key, None)
    if isinstance(key, int) and not isinstance(key, bool):
        key = str(key)
    if not isinstance(key, str) or not key:
        raise ValueError(f"{columns.key} is missing, or is no text")
    at = fields.pop("at", None)
    said = [_signal(name, fields.pop(name)) for name in columns.signals if name in fields]
    unknown = sorted(fields.keys() - set(Said.__struct_fields__))
    if unknown:
        legal = ", ".join((columns.key, *_FIELDS))
        raise ValueError(f"unknown column {unknown[0]!r}; name it with --signal, or use one of {legal}")
    if fields or not said:
        said += msgspec.convert(fields, Said).statements()
    if len({one.kind for one in said}) != len(said):
        raise ValueError("one line says two things of one kind")
    return Outcome(number, key, said, None if at is None else _time(at))


def _signal(name: str, value: Any) -> Statement:
    if not isinstance(value, str | int | float):
        raise msgspec.ValidationError(f"{name}: a signal is a number, yes or no, or a text")
    return signal(name, value)


def _time(text: Any) -> datetime:
    """Raises ValueError. A time without a zone is UTC."""
    try:
        at = datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise ValueError("at: not a time as 2026-03-04T05:06:07Z") from error
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
