"""Takes over what other tools have logged, as traces that train and are never evidence about traffic.

Every line goes through what live traffic goes through: the same redaction, the same encryption. Ids are
derived from what a line says, and the store is asked for them before and after each insert, so that a file
that is imported again, or whose import was killed at any moment, adds what is missing and nothing twice.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from gateway.config.types import IMPORTED_VARIANT, Config
from gateway.errors import UsageError
from gateway.paths import paths_of
from gateway.traces.assembling.jsontext import parse_json_or_none
from gateway.traces.bodies.blobs import BlobRow
from gateway.traces.erasure.erasures import ErasureList
from gateway.traces.importing.call import ImportedCall, OtherLineError, UnreadableLineError
from gateway.traces.importing.lines import MAX_LINE_BYTES, RawLine, read_lines
from gateway.traces.importing.recognise import Source, call_of
from gateway.traces.importing.storing import ImportStore, Storing
from gateway.traces.redaction.redact import redaction_key
from gateway.traces.row_builder import keyring_to_write_with, row_builder
from gateway.traces.segments import Record
from gateway.traces.stage import only_one
from gateway.traces.types import CapturedTrace, Trace, cut_key

MAX_FAILURES_TOLD = 100  # lines that failed are all counted; so many are told with their numbers and reasons

_ENDED = {True: "tool_calls", False: "stop"}  # by whether an answer calls tools
# A UUID of one's own making (RFC 9562): version 7, as of live traces, would say a time.
_UUID_VERSION_8 = (8 << 76) | (0b10 << 62)
_UUID_FIXED_BITS = (0xF << 76) | (0b11 << 62)
_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


class Into(msgspec.Struct, frozen=True, kw_only=True):
    """Where an import goes, and how its lines are taken.

    `client`: whose key it came with, where feedback is to find it. `assume_complete`: an answer of which the
    log does not say why it ended is taken for one that ended by itself; else it trains nobody.
    """

    route: str
    client: str = ""
    tags: dict[str, str] = {}
    source: Source = "auto"
    assume_complete: bool = False


class FailedLine(msgspec.Struct, frozen=True):
    """A line that was left out, and why, without its text."""

    line: int
    reason: str


class Imported(msgspec.Struct, kw_only=True):
    """What became of the lines: lines = imported + present + erased + failed + the sum over other.

    `erased`: of somebody whom an erasure keeps out. `unended`: traces of which nobody knows whether the
    answer is whole. `expired`: those that are older than store.retention_days, which the store lets go again.
    """

    lines: int = 0
    imported: int = 0
    present: int = 0
    erased: int = 0
    failed: int = 0
    other: dict[str, int] = {}
    failures: list[FailedLine] = []
    unended: int = 0
    expired: int = 0


def import_file(
    config: Config,
    path: Path,
    into: Into,
    store: ImportStore | None,
    *,
    now: datetime,
    watch: Callable[[int], object] = bool,
) -> Imported:
    """Import the lines of *path*; those that cannot be taken are told, and the others go in.

    Without a *store* nothing is written, and every line that can be taken counts as imported. A line without
    a time gets *now*. *watch* is told how many more bytes were read. Raises UsageError for a route that the
    configuration does not have, OperationError for a file that cannot be read, StoreError, KeyringError.
    """
    routes = {route.model: route for route in config.routes}
    if into.route not in routes:
        raise UsageError(f"no route {into.route!r}; routes: {', '.join(routes)}")
    if routes[into.route].capture == "none":
        raise UsageError(f"route {into.route!r} keeps no traces (capture: none)")
    if store is None:
        return _Import(config, into, None, now).run(path, watch)
    with only_one(paths_of(config).state / "import.lock", "import"):
        return _Import(config, into, store, now).run(path, watch)


class _Import:
    """One import under way."""

    def __init__(self, config: Config, into: Into, store: ImportStore | None, now: datetime) -> None:
        self._into = into
        self._now = now
        self._id_key = redaction_key(paths_of(config).state / "redaction_key")
        self._capture = next(route.capture for route in config.routes if route.model == into.route)
        keys = () if config.auth is None else config.auth.keys
        self._training = all(key.training for key in keys if key.name == into.client)
        days = config.store.retention_days
        self._expired_before = None if days is None else now - timedelta(days=days)
        self._keyring = None if store is None else keyring_to_write_with(config)
        self._rows = row_builder(config, self._keyring)
        erasures = ErasureList(paths_of(config).state)
        self._storing = None if store is None else Storing(store, erasures, self._commit, self._refused)
        self._done = Imported()
        self._other: Counter[str] = Counter()

    def run(self, path: Path, watch: Callable[[int], object]) -> Imported:
        try:
            for raw in read_lines(path):
                self._done.lines += 1
                self._take(raw)
                watch(raw.size)
            if self._storing is not None:
                self._storing.flush()
                self._done.imported, self._done.present = self._storing.stored, self._storing.present
                self._done.erased = self._storing.erased
        finally:
            if self._keyring is not None:
                self._keyring.close()
        self._done.other = dict(sorted(self._other.items()))
        self._done.failures.sort(key=lambda failure: failure.line)
        return self._done

    def _take(self, raw: RawLine) -> None:
        try:
            row, blobs, timed = self._row(raw)
        except OtherLineError as error:
            self._other[str(error)] += 1
        except UnreadableLineError as error:
            self._refused(raw.number, str(error))
        else:
            self._done.unended += row.outcome == "ok" and row.finish_reason is None
            self._done.expired += self._expired_before is not None and row.started_at < self._expired_before
            if self._storing is None:
                self._done.imported += 1
            else:
                self._storing.add(raw.number, row, blobs, timed=timed)

    def _row(self, raw: RawLine) -> tuple[Trace, Sequence[BlobRow], bool]:
        """The trace of a line, what its bodies refer to, and whether the line says its time."""
        if raw.data is None:
            raise UnreadableLineError(f"longer than {MAX_LINE_BYTES} bytes (MAX_LINE_BYTES)")
        line = parse_json_or_none(raw.data)
        if line is None:
            raise UnreadableLineError("no JSON")
        call = call_of(line, self._into.source)
        if self._into.assume_complete and call.response is not None:
            _end(call.response)
        try:
            trace_id = self._trace_id(line)
            built = self._rows.build(_record(self._captured(call, trace_id), call))
        except (RecursionError, msgspec.MsgspecError) as error:
            raise UnreadableLineError("nested too deep, or no text that can be stored") from error
        row = built.values
        assert isinstance(row, Trace)
        cost_usd = row.cost_usd if call.cost_usd is None else call.cost_usd
        imported = msgspec.structs.replace(
            row,
            imported=True,
            stream=call.stream,
            cost_usd=cost_usd,
            model=self._redacted(
                row.model, row.session
            ),  # no table of ours has said them: they may be anything
            upstream=self._redacted(row.upstream, row.session),
        )
        return imported, built.blobs, call.started_at is not None

    def _redacted(self, text: str, session: str) -> str:
        redactor = self._rows.policy.of(self._into.route).redactor
        return text if redactor is None else redactor.text(text, f"{self._into.client}\0{session}")

    def _trace_id(self, line: Any) -> str:
        """The same for the same line, and keyed: ids are public, and nobody may test a guess by one."""
        content = _encode_sorted([self._into.route, self._into.client, line])
        digest = hashlib.blake2b(content, key=self._id_key, digest_size=16).digest()
        number = int.from_bytes(digest) & ~_UUID_FIXED_BITS | _UUID_VERSION_8
        return str(UUID(int=number))

    def _captured(self, call: ImportedCall, trace_id: str) -> CapturedTrace:
        started_at = call.started_at or self._now
        return CapturedTrace(
            trace_id=trace_id,
            started_at_us=round(started_at.timestamp() * 1_000_000),
            route=self._into.route,
            variant=IMPORTED_VARIANT,
            snapshot=None,
            rollout=None,
            propensity=None,
            client=self._into.client,
            session=cut_key(call.session or trace_id),
            subject=call.subject and cut_key(call.subject),
            upstream=call.upstream,
            model=call.model,
            endpoint=call.endpoint,
            stream=False,  # of the body at hand: logs hold streams assembled
            status=call.status,
            outcome="upstream_error" if call.failed else "ok",
            latency_ms=call.latency_ms or 0.0,
            ttft_ms=call.ttft_ms,
            attempts=[],
            tags={**call.tags, **self._into.tags},
            table_hash="",
            traceparent=None,
            capture=self._capture,
            training=self._training,
            price=None,
            machine_cost_usd=None,
        )

    def _commit(self) -> None:
        if self._keyring is not None:
            self._keyring.commit()

    def _refused(self, line: int, reason: str) -> None:
        self._done.failed += 1
        if len(self._done.failures) < MAX_FAILURES_TOLD:
            self._done.failures.append(FailedLine(line, reason))


def _record(captured: CapturedTrace, call: ImportedCall) -> Record:
    return Record(
        captured=captured,
        meta=b"",
        request=_encode(call.request),
        response=_encode(call.response),
        bodies_left_out=False,
        end=0,
    )


def _end(response: dict[str, Any]) -> None:
    """Say of the answers of *response* that they ended by themselves, where it does not say how they did."""
    choices = response.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("finish_reason") is None:
            message = choice.get("message")
            choice["finish_reason"] = _ENDED[isinstance(message, dict) and bool(message.get("tool_calls"))]
