"""Rows of a dataset or a run on disk: one JSON document a line, under their subjects' keys where bodies are.

An encrypted line names the traces it came from and nothing else. A row whose key was destroyed is no row.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from gateway.traces.bodies.bodies import Bodies, Owner
from gateway.traces.markers import ERASED
from gateway.traces.types import Trace
from learner.errors import LearnerError
from learner.files import jsonl, read_jsonl

T = TypeVar("T")

log = logging.getLogger(__name__)


class Line(NamedTuple):
    """A row to write, the traces it came from, and whose key it is under: that of the first of them."""

    traces: list[str]
    owner: Owner
    row: Any


class TraceIds(msgspec.Struct, frozen=True):
    """What every line of a dataset says, encrypted or not."""

    traces: list[str]


class _SealedLine(msgspec.Struct, frozen=True, kw_only=True):
    traces: list[str]
    sealed: str


class _AnyLine(msgspec.Struct, frozen=True):
    sealed: str | None = None


def owner_of(trace: Trace) -> Owner:
    """Whose key the bodies of *trace* are under."""
    return Owner(trace.client, trace.subject, trace.session)


def lines(name: str, rows: Sequence[Line], bodies: Bodies) -> bytes:
    """The content of the file *name*. Raises KeyringError, ConfigError."""
    if not bodies.encrypts:
        return jsonl([line.row for line in rows])
    return jsonl(
        [
            _SealedLine(
                traces=line.traces,
                sealed=bodies.seal(jsonl([line.row]).decode(), line.owner, _place(name, line.traces)),
            )
            for line in rows
        ]
    )


def read_rows(path: Path, kind: type[T], bodies: Bodies) -> list[T]:
    """The rows of *path* that are left; those whose key was destroyed are counted in the log.

    Raises LearnerError for a file that is missing or damaged, DamagedBodyError, KeyringError, ConfigError.
    """
    if not any(line.sealed for line in read_jsonl(path, _AnyLine)):
        return read_jsonl(path, kind)
    texts = [
        bodies.text(line.sealed, _place(path.name, line.traces)) for line in read_jsonl(path, _SealedLine)
    ]
    left = [text for text in texts if text != ERASED]
    if len(left) < len(texts):
        log.warning("%s: %d of %d rows were erased", path, len(texts) - len(left), len(texts))
    try:
        return [msgspec.json.decode(text, type=kind) for text in left]
    except msgspec.DecodeError as error:
        raise LearnerError(f"{path}: damaged: {error}") from error


def _place(name: str, traces: list[str]) -> str:
    return f"{name} of {traces[0]}"
