"""Lines of TRL's preference type: a good and a bad answer to one prompt, as a judge has scored them."""

from __future__ import annotations

import hashlib
from typing import Any, BinaryIO

import msgspec

from gateway.errors import OperationError
from gateway.traces.exporting.chat import chat_of
from gateway.traces.exporting.examples import trl_example
from gateway.traces.types import Trace

MAX_HELD_BYTES = 256 << 20  # of answers that wait for their counterpart

UNPAIRED = "nobody gave its prompt an answer of the other kind"
PAIRED = "its prompt has a pair already"
SAME = "the same answer was judged good and bad"

_encode = msgspec.json.Encoder(order="sorted").encode


class Pairs:
    """One line for each prompt that got both: its newest good answer and its newest bad one.

    Good is a score of *threshold* and more. Raises OperationError where more than MAX_HELD_BYTES of answers
    would wait for their counterparts.
    """

    def __init__(self, out: BinaryIO, threshold: float) -> None:
        self._out = out
        self._threshold = threshold
        # By prompt: whether the answer that waits is good, and the answer; None once there is a pair.
        self._waiting: dict[bytes, tuple[bool, bytes] | None] = {}
        self._held = 0

    def add(self, trace: Trace, score: float | None) -> str | None:
        assert score is not None, "only judged traces are selected"
        chat = chat_of(trace)
        example = chat if isinstance(chat, str) else trl_example(chat, score)
        if isinstance(example, str):
            return example
        completion = example.pop("completion")
        good, answer = score >= self._threshold, _encode(completion)
        prompt = hashlib.blake2b(_encode(example), digest_size=16).digest()
        if prompt not in self._waiting:
            self._hold(prompt, good, answer)
            return None
        other = self._waiting[prompt]
        if other is None or other[0] == good:
            return PAIRED if other is None else UNPAIRED
        if other[1] == answer:
            return SAME
        self._write(example, good, completion, other[1])
        self._waiting[prompt] = None
        self._held -= len(other[1])
        return None

    def flush(self) -> None:
        self._out.flush()

    def close(self) -> dict[str, int]:
        self._out.flush()
        alone = sum(waiting is not None for waiting in self._waiting.values())
        return {UNPAIRED: alone} if alone else {}

    def _hold(self, prompt: bytes, good: bool, answer: bytes) -> None:
        self._held += len(answer)
        if self._held > MAX_HELD_BYTES:
            raise OperationError(
                f"more than {MAX_HELD_BYTES} bytes of answers wait for a counterpart (MAX_HELD_BYTES); "
                "export less at a time: --route, --from and --to"
            )
        self._waiting[prompt] = (good, answer)

    def _write(self, example: dict[str, Any], good: bool, completion: Any, other: bytes) -> None:
        pair = {"chosen": completion, "rejected": msgspec.Raw(other)}
        if not good:
            pair = {"chosen": msgspec.Raw(other), "rejected": completion}
        self._out.write(msgspec.json.encode({**example, **pair}) + b"\n")
