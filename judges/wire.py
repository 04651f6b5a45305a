"""What parent and worker say to each other: msgpack messages, each behind its length, over two pipes."""

from __future__ import annotations

import os
import struct
from typing import TypeVar

import msgspec

from gateway.traces.markers import why_text_unreadable
from gateway.traces.types import Feedback, Trace
from judges.load import JudgeSource

MAX_FRAME_BYTES = 1 << 30  # far above what the gateway accepts as a body
PIPES_GONE = 120  # exit status of a worker whose pipes are closed
_LENGTH = struct.Struct("<I")
T = TypeVar("T")


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """First message to a worker: what to judge with, and how much memory that may take."""

    judge: JudgeSource
    memory_bytes: int


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One trace to judge, with the feedback in force on it.

    `session`, the turns before it, and `later`, those after it, are empty unless the judge asks for them.

    `feedback_seen` counts the later turns that are shown, and what was said of the trace in all, with what a
    later word has replaced. `whole`: it is the last turn of a session to be judged, `session` those before
    it, and `said` has what is in force on each of them by its id. `generated`: the store has another answer
    to this prompt under the trace's id.
    """

    trace: Trace
    feedback: list[Feedback]
    session: list[Trace] = []
    later: list[Trace] = []
    feedback_seen: int = 0
    whole: bool = False
    said: dict[str, list[Feedback]] = {}
    generated: bool = False

    @property
    def why_unreadable(self) -> str | None:
        """Why nobody can judge this any more: a body or a text of feedback was erased, or is damaged."""
        texts = [self.trace.request, self.trace.response, *(said.text for said in self.feedback)]
        return next((reason for text in texts if (reason := why_text_unreadable(text)) is not None), None)

    @property
    def trace_ids(self) -> tuple[str, ...]:
        """Of every trace that the judge is shown."""
        return tuple(row.trace_id for row in (*self.session, self.trace, *self.later))

    @property
    def size(self) -> int:
        """Of its bodies, in characters."""
        return sum(len(row.request or "") + len(row.response or "") for row in (self.trace, *self.session))


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """The file is imported and the judge takes these parameters."""

    parameters: tuple[str, ...]


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """The file cannot be used, for this reason."""

    message: str


class Answer(msgspec.Struct, frozen=True, kw_only=True, tag="answer"):
    """The verdict on the oldest task without one. `spent`: the worker should be replaced before the next."""

    score: float | None
    reason: str
    seconds: float
    spent: bool = False
    cost_usd: float | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    detail: str = ""


Reply = Ready | Refused | Answer


def frame(message: msgspec.Struct) -> bytes:
    """*message* as bytes for the pipe. Raises ValueError above MAX_FRAME_BYTES."""
    body = msgspec.msgpack.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"a message of {len(body)} bytes is larger than {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


def split_frame(buffer: bytearray) -> bytes | None:
    """Take the first whole message off *buffer*; None while it is incomplete. ValueError on nonsense."""
    if len(buffer) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack_from(buffer)
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"a message of {length} bytes is larger than {MAX_FRAME_BYTES}")
    end = _LENGTH.size + length
    if len(buffer) < end:
        return None
    body = bytes(buffer[_LENGTH.size : end])
    del buffer[:end]
    return body


def read_message(file_descriptor: int, buffer: bytearray, kind: type[T]) -> T | None:
    """Block for one message from a pipe; None when the other side has closed it."""
    while (body := split_frame(buffer)) is None:
        chunk = os.read(file_descriptor, 1 << 20)
        if not chunk:
            return None
        buffer += chunk
    return msgspec.msgpack.decode(body, type=kind)
