"""The stable variant's answer to the same prompt, looked up in the store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from gateway.config import Config
from gateway.traces.markers import is_readable
from gateway.traces.store import Store, open_store
from gateway.traces.types import Trace
from judges.llm.material import conversation
from judges.pending import ANSWERED_SQL
from judges.trace import judged_trace

MAX_STABLE = 500  # of a route's latest stable answers are looked through for a prompt
MAX_STABLE_BYTES = 64 * 1024 * 1024  # of their bodies
KNOWN_FOR_S = 60.0  # an answer that was given later is found after this
_COLUMNS = ", ".join(Trace.__struct_fields__)


class StableAnswers:
    """Finds what the variant that the configuration marks stable answered to a prompt. One thread owns it."""

    def __init__(self, config: Config, store: Store) -> None:
        self._config = config
        self._store = store
        self._known: dict[str, tuple[float, dict[bytes, Trace]]] = {}

    def to(self, trace: Trace, now_s: float, *, generated: bool = False) -> Trace | None:
        """The latest stable answer to the prompt of *trace*, not its own; None where there is none.

        *generated*: what the store has under the id of *trace* is another's answer, and counts. *now_s* is a
        monotonic clock. Raises StoreError.
        """
        route = self._config.route(trace.route)
        if route is None:
            return None
        known = self._known.get(trace.route)
        if known is None or now_s - known[0] > KNOWN_FOR_S:
            known = self._known[trace.route] = (now_s, self._latest(trace.route, route.stable.name))
        found = known[1].get(_prompt(trace))
        own = found is not None and found.trace_id == trace.trace_id and not generated
        return None if own else found

    def _latest(self, route: str, variant: str) -> dict[bytes, Trace]:
        rows = self._store.query(
            f"SELECT {_COLUMNS} FROM traces WHERE route = {{route:String}} AND variant = {{variant:String}} "  # noqa: S608
            f"AND {ANSWERED_SQL} ORDER BY started_at DESC, trace_id DESC LIMIT {MAX_STABLE}",
            {"route": route, "variant": variant},
        )
        found: dict[bytes, Trace] = {}
        held = 0
        for row in rows:
            stored = msgspec.convert(row, Trace, strict=False)
            readable = self._store.bodies.lenient_trace(stored)
            held += len(readable.request or "") + len(readable.response or "")
            if held > MAX_STABLE_BYTES:
                break
            if is_readable(readable):
                found.setdefault(_prompt(readable), readable)
        return found


@contextmanager
def stable_answers(config: Config) -> Iterator[StableAnswers]:
    """On a connection of its own. Raises StoreError."""
    with open_store(config) as store:
        yield StableAnswers(config, store)


def _prompt(trace: Trace) -> bytes:
    """What the model was asked, roles and texts of the whole conversation, as a digest."""
    shown = conversation(judged_trace(trace))
    return hashlib.sha256(msgspec.json.encode(shown, order="deterministic")).digest()
