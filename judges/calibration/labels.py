"""What people say of answers: by labels in the store, by a file, and by feedback."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from gateway.traces.batches import parts_of
from gateway.traces.store import Store
from gateway.traces.types import Feedback, Label
from judges.errors import JudgeError
from judges.pending import JUDGEABLE_SQL, JudgeVersion
from judges.rows import BATCH_TRACES

MAX_LABELS = 2_000  # the latest; more would not narrow an interval that matters
MAX_FILE_BYTES = 50_000_000
MAX_BAD_LINES_TOLD = 5
GOOD_RATING = 0.5  # a rating above it says good, below it bad, at it neither

Source = Literal["feedback", "file", "terminal", "mixed"]
_WORDS: Mapping[object, bool] = {"good": True, "bad": False, 1: True, 0: False}


class LabelFileError(JudgeError):
    """A file of labels cannot be used. The message names the file, the line and the remedy."""

    exit_code = 2


class Labelled(msgspec.Struct, frozen=True, kw_only=True):
    """Traces with a label, the latest first, and how many were left out because people disagree.

    `by_feedback` are those of them whose label nobody gave but by feedback.
    """

    labels: dict[str, bool]
    by_feedback: frozenset[str]
    source: Source
    disputed: int


class _Line(msgspec.Struct, frozen=True):
    trace_id: str
    label: Any
    who: str = ""


def read_labels(path: Path, now: datetime) -> list[Label]:
    """The labels of a JSONL file: `{"trace_id": …, "label": true}` a line. Raises LabelFileError.

    `label` is true, false, 1, 0, "good" or "bad"; `who` may name the person, else it is the file's name.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise LabelFileError(f"{path}: larger than {MAX_FILE_BYTES} bytes; split it")
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise LabelFileError(f"{path}: cannot be read: {error.strerror}") from error
    found: list[Label] = []
    bad: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found.append(_label(line, path, now))
        except (ValueError, msgspec.MsgspecError) as error:
            bad.append(f"{path}:{number}: {error}")
    if bad:
        more = f" (and {len(bad) - MAX_BAD_LINES_TOLD} more lines)" if len(bad) > MAX_BAD_LINES_TOLD else ""
        raise LabelFileError("; ".join(bad[:MAX_BAD_LINES_TOLD]) + more)
    return found


def store_labels(store: Store, labels: Sequence[Label]) -> list[str]:
    """Keep those of *labels* whose trace is in the store; gives the ids of the others. Raises StoreError."""
    known: set[str] = set()
    for part in parts_of([label.trace_id for label in labels], BATCH_TRACES):
        rows = store.query(
            "SELECT trace_id FROM traces WHERE trace_id IN {ids:Array(String)}", {"ids": list(part)}
        )
        known |= {row["trace_id"] for row in rows}
    store.insert("labels", [label for label in labels if label.trace_id in known], token=os.urandom(8).hex())
    return [label.trace_id for label in labels if label.trace_id not in known]


def labelled(store: Store, judge: JudgeVersion) -> dict[str, list[Label]]:
    """What is in the table of labels on traces that *judge* could judge, the latest first."""
    rows = store.query(
        "SELECT trace_id, who, label, source, labelled_at FROM labels WHERE trace_id IN "  # noqa: S608
        f"(SELECT trace_id FROM traces WHERE {JUDGEABLE_SQL}) "
        f"ORDER BY labelled_at DESC, trace_id LIMIT {MAX_LABELS}",
        judge.parameters(),
    )
    found: dict[str, list[Label]] = {}
    for row in rows:
        found.setdefault(row["trace_id"], []).append(msgspec.convert(row, Label, strict=False))
    return found


def with_feedback(store: Store, judge: JudgeVersion) -> list[str]:
    """Traces that *judge* could judge and that anything was said of, the latest first."""
    rows = store.query(
        f"SELECT trace_id FROM traces WHERE {JUDGEABLE_SQL} AND (trace_id IN "  # noqa: S608 -- constants
        "(SELECT assumeNotNull(trace_id) FROM feedback WHERE trace_id IS NOT NULL) OR session IN "
        "(SELECT assumeNotNull(session) FROM feedback WHERE trace_id IS NULL AND session IS NOT NULL)) "
        f"ORDER BY started_at DESC, trace_id DESC LIMIT {MAX_LABELS}",
        judge.parameters(),
    )
    return [row["trace_id"] for row in rows]


def feedback_label(feedback: Iterable[Feedback], answer: str) -> bool | None:
    """What feedback in force says of *answer*; None where it says nothing, or two things.

    Accepted, kept as it was, or rated above GOOD_RATING is good; rejected, kept otherwise, or rated below it
    is bad. An edit alone does not say how bad it was.
    """
    said = {word for entry in feedback if (word := _word(entry, answer)) is not None}
    return said.pop() if len(said) == 1 else None


def disputes(feedback: Iterable[Feedback], answer: str) -> bool:
    """Whether feedback says that *answer* is good and that it is bad."""
    return len({_word(entry, answer) for entry in feedback} - {None}) == 2


def combined(people: Mapping[str, Sequence[Label]], said: Mapping[str, bool], disputed: int = 0) -> Labelled:
    """Labels of people, and where they gave none, what feedback says; disputed traces are left out."""
    labels: dict[str, bool] = {}
    sources: set[Source] = set()
    for trace_id, given in people.items():
        values = {bool(label.label) for label in given} | ({said[trace_id]} if trace_id in said else set())
        if len(values) > 1:
            disputed += 1
            continue
        labels[trace_id] = values.pop()
        sources |= {label.source for label in given}
    by_feedback = {trace_id: value for trace_id, value in said.items() if trace_id not in people}
    if by_feedback:
        sources.add("feedback")
    return Labelled(
        labels=dict(list((labels | by_feedback).items())[:MAX_LABELS]),
        by_feedback=frozenset(by_feedback),
        source=sources.pop() if len(sources) == 1 else "mixed",
        disputed=disputed,
    )


def terminal_label(trace_id: str, who: str, *, good: bool) -> Label:
    """A label that *who* gave just now at the terminal."""
    return Label(
        trace_id=trace_id,
        who=who,
        label=int(good),
        source="terminal",
        labelled_at=datetime.now(UTC),
    )


def _label(line: bytes, path: Path, now: datetime) -> Label:
    read = msgspec.json.decode(line, type=_Line)
    value = _WORDS.get(read.label) if isinstance(read.label, str | int) else None
    if value is None:
        raise ValueError('label is true, false, 1, 0, "good" or "bad"')
    return Label(
        trace_id=read.trace_id, who=read.who or path.name, label=int(value), source="file", labelled_at=now
    )


def _word(entry: Feedback, answer: str) -> bool | None:
    if entry.kind == "outcome":
        return {"accepted": True, "rejected": False}.get(entry.text or "")
    if entry.kind == "kept" and entry.text is not None:
        return " ".join(entry.text.split()) == " ".join(answer.split())
    if entry.kind == "rating" and entry.value is not None and entry.value != GOOD_RATING:
        return entry.value > GOOD_RATING
    return None


def unlabelled(ids: Iterable[str], people: Mapping[str, Sequence[Label]], who: str) -> Iterator[str]:
    """Those of *ids* that *who* has not labelled yet."""
    return (key for key in ids if all(label.who != who for label in people.get(key, ())))
