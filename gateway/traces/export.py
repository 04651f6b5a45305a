"""Gets traces out: as examples for fine-tuning, or as they are.

Memory is bounded by a batch (`gateway.traces.exporting.pages`), whatever the number of traces. Truncated
answers and errors become no examples unless the selection asks for them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import BinaryIO, Literal, get_args

import msgspec

from gateway.errors import UsageError
from gateway.traces.exporting.examples import Build, labelled_by, openai_example, trl_example
from gateway.traces.exporting.pages import BATCH_TRACES, Reads, batches, pages
from gateway.traces.exporting.pairs import Pairs
from gateway.traces.exporting.selection import Found, Selection, why_not
from gateway.traces.exporting.sinks import Lines, Parquet, Sink

Format = Literal["openai", "trl", "trl-unpaired", "trl-preference", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)
GONE = "it was removed meanwhile"
GOOD_FROM = 0.5  # the score from which on an answer is labelled good, where --min-score says nothing else


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the traces that were looked at: looked_at = written + the sum over left_out."""

    looked_at: int
    written: int
    left_out: dict[str, int]  # by reason


def export_traces(
    store: Reads,
    selection: Selection,
    kind: Format,
    out: BinaryIO,
    *,
    audit: Callable[[Sequence[str]], None],
    watch: Callable[[int], object] = bool,
) -> Exported:
    """Write the traces of *selection* to *out* as *kind*, newest first.

    *audit* is told the ids of traces before their bodies are read, and stops the export by raising; *watch*
    is told how many more traces have been looked at. Raises UsageError for what does not fit together,
    StoreError, OSError.
    """
    fitting = _fitting(kind, selection)
    sink = _sink(kind, selection, out)
    work = _Work(store, fitting, sink, audit)
    for page in pages(store, fitting):
        rest = deque(page)
        while rest and not work.full:
            before = len(rest)
            work.step(rest)
            watch(before - len(rest))
        if work.full:
            break
    return work.exported()


class _Work:
    """One export under way."""

    def __init__(
        self, store: Reads, selection: Selection, sink: Sink, audit: Callable[[Sequence[str]], None]
    ) -> None:
        self._store = store
        self._selection = selection
        self._sink = sink
        self._audit = audit
        self._left_out: Counter[str] = Counter()
        self._written = 0

    @property
    def full(self) -> bool:
        return self._written == self._selection.limit

    def step(self, rest: deque[Found]) -> None:
        """Take from *rest* what one batch may hold, and write it."""
        limit = self._selection.limit
        wanted = self._take(rest, BATCH_TRACES if limit is None else min(BATCH_TRACES, limit - self._written))
        for batch in batches(self._store, self._selection, wanted, self._audit) if wanted else ():
            for found, trace in batch:
                reason = GONE if trace is None else self._sink.add(trace, found.score)
                self._count(reason)
            self._sink.flush()

    def exported(self) -> Exported:
        """End the file, and say what became of everything. Raises OSError."""
        for reason, count in self._sink.close().items():
            self._left_out[reason] += count
            self._written -= count
        left_out = dict(sorted(self._left_out.items()))
        return Exported(
            looked_at=self._written + sum(left_out.values()), written=self._written, left_out=left_out
        )

    def _take(self, rest: deque[Found], room: int) -> list[Found]:
        wanted: list[Found] = []
        while rest and len(wanted) < room:
            found = rest.popleft()
            reason = why_not(found, self._selection)
            if reason is None:
                wanted.append(found)
            else:
                self._left_out[reason] += 1
        return wanted

    def _count(self, reason: str | None) -> None:
        if reason is None:
            self._written += 1
        else:
            self._left_out[reason] += 1


def _sink(kind: Format, selection: Selection, out: BinaryIO) -> Sink:
    if kind == "parquet":
        return Parquet(out)
    threshold = GOOD_FROM if selection.min_score is None else selection.min_score
    if kind == "trl-preference":
        return Pairs(out, threshold)
    builds: dict[str, Build] = {
        "openai": openai_example,
        "trl": trl_example,
        "trl-unpaired": labelled_by(threshold),
    }
    return Lines(out, builds[kind])


def _fitting(kind: Format, selection: Selection) -> Selection:
    """*selection* as *kind* means it."""
    if selection.judge is None and (selection.min_score is not None or selection.max_score is not None):
        raise UsageError("a score is a judge's: name one with --judge")
    if kind in {"trl-unpaired", "trl-preference"}:
        if selection.judge is None:
            raise UsageError(f"{kind} tells good answers by the score of a judge: name one with --judge")
        return msgspec.structs.replace(selection, min_score=None)  # a label here, no condition
    if kind == "parquet":
        return msgspec.structs.replace(selection, complete=False, withheld=True)  # rows, no examples
    return selection
