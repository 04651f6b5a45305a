"""The scheduler: one thread that computes, and rows that come and go between its passes.

This is continuous batching. Each pass takes one token of every row that is writing and up to
PREFILL_TOKENS of prompts that are being read, in the order of their arrival. A finished row's keys and
values stay for a while: the next prompt that begins with the same tokens (a system prompt, an earlier
turn) takes them over.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Literal

import msgspec
import torch

from learner.errors import ServingError
from learner.serving.kv import RowKv, longest_prefix
from learner.serving.lora import Adapter
from learner.serving.model import Part, ServedModel
from learner.serving.sampling import Sampling, choose
from learner.serving.text import TextStream

# Prompt tokens read in one pass. More is a little quicker in all, and makes the rows that write wait longer.
PREFILL_TOKENS = 256
# Finished rows whose keys and values are kept for the next prompt that begins like theirs.
KEPT_ROWS = 32

_log = logging.getLogger(__name__)


class EngineLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the engine; each is an option of `tracetune serve`."""

    max_rows: int = 16  # answered at a time
    queue: int = 256  # waiting for a row
    kv_tokens: int = 32_768  # keys and values reserved, in tokens: rows being answered, and kept prefixes


class QueueFullError(ServingError):
    """As many requests wait as may wait."""


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of an answer. The last one has a finish reason, or an error in its place."""

    text: str = ""
    finish: Literal["stop", "length"] | None = None
    error: str | None = None
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0

    @property
    def last(self) -> bool:
        return self.finish is not None or self.error is not None


class Request:
    """One answer wanted. `sink` gets its chunks, from the engine's thread; `cancel` from any thread."""

    def __init__(
        self,
        *,
        prompt: list[int],
        adapter: Adapter | None,
        sampling: Sampling,
        max_tokens: int,
        stop: list[str],
        ignore_end: bool = False,
        sink: Callable[[Chunk], None],
    ) -> None:
        self.prompt = prompt
        self.adapter = adapter
        self.sampling = sampling
        self.max_tokens = max_tokens
        self.stop = stop
        self.ignore_end = ignore_end
        self.sink = sink
        self.cancelled = False

    def cancel(self) -> None:
        """Nobody waits for this any more: it gets no more chunks, and its row is free after this pass."""
        self.cancelled = True

    @property
    def size(self) -> int:
        """Tokens its keys and values may take."""
        return len(self.prompt) + self.max_tokens


class _Row:
    """A request being answered."""

    def __init__(self, request: Request, kv: RowKv, text: TextStream) -> None:
        self.request = request
        self.kv = kv
        self.text = text
        self.generator = request.sampling.generator()
        self.written: list[int] = []
        self.cached = 0

    @property
    def unread(self) -> int:
        """Prompt tokens not computed yet."""
        return max(len(self.request.prompt) - len(self.kv.tokens), 0)


class EngineCounters:
    """What /metrics shows. Written by the engine's thread, read by any."""

    def __init__(self) -> None:
        self.finished = {"stop": 0, "length": 0, "cancelled": 0, "error": 0}
        self.tokens_in = 0
        self.tokens_cached = 0
        self.tokens_out = 0
        self.passes = 0


class Engine:
    """Answers requests. `submit` from any thread, after `start` and before `stop`."""

    def __init__(self, model: ServedModel, limits: EngineLimits) -> None:
        self._model = model
        self._limits = limits
        self._changed = threading.Condition()
        self._waiting: deque[Request] = deque()
        self._rows: list[_Row] = []
        self._kept: deque[RowKv] = deque(maxlen=KEPT_ROWS)  # of finished rows, the oldest first
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.counters = EngineCounters()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._rows)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        """Start computing."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End after the pass that runs now; every request that is open gets an error."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def submit(self, request: Request) -> None:
        """Queue *request*. Raises QueueFullError, and ServingError for one that could never fit."""
        if request.size > self._limits.kv_tokens:
            raise ServingError(
                f"the request may take {request.size} tokens of the {self._limits.kv_tokens} that all "
                "requests share; ask for fewer max_tokens, or raise --kv-tokens"
            )
        with self._changed:
            if self._stopping:
                raise QueueFullError("the server is stopping")
            if len(self._waiting) >= self._limits.queue:
                raise QueueFullError(f"{self._limits.queue} requests wait already; --queue raises the bound")
            self._waiting.append(request)
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._rows or self._stopping):
                    self._changed.wait()
                if self._stopping:
                    break
                self._drop_cancelled()
                self._admit()
            try:
                self._pass()
            except Exception:  # noqa: BLE001 -- the thread's boundary: a failed pass must not end the server
                _log.exception("a pass failed; its requests get an error")
                self._fail_all("the server failed to compute this answer; its log says why")
        self._fail_all("the server is stopping")

    def _drop_cancelled(self) -> None:
        for row in [row for row in self._rows if row.request.cancelled]:
            self._retire(row, "cancelled")
        kept = [request for request in self._waiting if not request.cancelled]
        self.counters.finished["cancelled"] += len(self._waiting) - len(kept)
        self._waiting = deque(kept)

    def _admit(self) -> None:
        """Give rows to those that wait, first come first served, while there is room."""
        while self._waiting and len(self._rows) < self._limits.max_rows:
            size = self._waiting[0].size
            used = sum(row.kv.capacity for row in self._rows)
            if used + size > self._limits.kv_tokens:
                return
            while self._kept and used + size + sum(kv.capacity for kv in self._kept) > self._limits.kv_tokens:
                self._kept.popleft()
            request = self._waiting.popleft()
            kv = self._model.new_kv(size, request.adapter)
            self._rows.append(_Row(request, kv, TextStream(self._model.tokenizer, request.stop)))

    def _pass(self) -> None:
        planned = self._plan()
        if not planned:
            return
        logits = self._model.step([part for _row, part in planned])
        self.counters.passes += 1
        for index, (row, _part) in enumerate(planned):
            if not row.unread:
                self._advance(row, logits[index])

    def _plan(self) -> list[tuple[_Row, Part]]:
        planned: list[tuple[_Row, Part]] = []
        budget = PREFILL_TOKENS
        for row in self._rows:
            if not row.unread:
                planned.append((row, Part(row.kv, row.written[-1:])))
            elif budget > 0:
                if not row.kv.tokens:
                    self._share_prefix(row)
                start = len(row.kv.tokens)
                tokens = row.request.prompt[start : start + budget]
                budget -= len(tokens)
                planned.append((row, Part(row.kv, tokens)))
        # Rows of one adapter stand together, so that it is applied to them at once.
        return sorted(planned, key=lambda entry: id(entry[0].request.adapter))

    def _share_prefix(self, row: _Row) -> None:
        candidates = [*self._kept, *(other.kv for other in self._rows if other is not row)]
        found = longest_prefix(candidates, row.request.adapter, row.request.prompt)
        if found is not None:
            source, row.cached = found
            row.kv.take_prefix(source, row.cached)

    def _advance(self, row: _Row, logits: torch.Tensor) -> None:
        """Take the row's next token, hand on its text, and let the row go if it ends here."""
        request = row.request
        token = choose(logits, request.sampling, row.generator)
        row.written.append(token)
        ended = token in self._model.end_tokens and not request.ignore_end
        text = "" if ended else row.text.push(token)
        ended = ended or row.text.stopped
        if not ended and len(row.written) < request.max_tokens:
            if text and not request.cancelled:
                request.sink(Chunk(text=text))
            return
        text += row.text.finish()
        finish: Literal["stop", "length"] = "stop" if ended or row.text.stopped else "length"
        self._retire(row, finish)
        if not request.cancelled:
            request.sink(
                Chunk(
                    text=text,
                    finish=finish,
                    tokens_in=len(request.prompt),
                    tokens_cached=row.cached,
                    tokens_out=len(row.written),
                )
            )

    def _retire(self, row: _Row, how: str) -> None:
        self._rows.remove(row)
        self._kept.append(row.kv)
        self.counters.finished[how] += 1
        self.counters.tokens_in += len(row.request.prompt)
        self.counters.tokens_cached += row.cached
        self.counters.tokens_out += len(row.written)

    def _fail_all(self, reason: str) -> None:
        with self._changed:
            failed = [row.request for row in self._rows]
            self._rows.clear()
            self._kept.clear()  # what a failed pass wrote there is not known
            if self._stopping:
                failed += self._waiting
                self._waiting.clear()
        self.counters.finished["error"] += len(failed)
        for request in failed:
            if not request.cancelled:
                request.sink(Chunk(error=reason))
