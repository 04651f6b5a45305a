"""The list of erasures, in the data directory: what every stage asks before it writes something down.

An erasure removes what has been written; the list keeps out what is on its way. Recorder and shipper hold
the list while they write to this disk, so that when an entry has been added, whatever is written afterwards
was checked against it. Who sends rows to the store does not hold it, since a store may hang: it has read the
list before, and an erasure waits for it apart from everybody else. Names are in the list as keyed digests: it
does not say whom it has forgotten.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from gateway.errors import OperationError
from gateway.traces.erasure.blob_owners import owners_of_blob, short
from gateway.traces.erasure.locks import locked, part_with_senders, sending, wait_until_sent
from gateway.traces.redaction.redact import redaction_key
from gateway.traces.spool.synced import replace_synced
from gateway.traces.types import BLOBS

# A finished entry is dropped then, or after capture.max_age_days where that is longer: by then no segment, no
# file of the spool and none of the quarantine has anything of it, and feedback on its traces has come.
KEPT_DAYS = 90
SENT_WAIT_S = 600.0  # for rows that are being sent to the store: a statement is given up after half of that
MAX_MET = 50_000  # traces kept out, remembered so that feedback on them is kept out too
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NEVER = -1

_OWNED = frozenset({"traces", "feedback"})  # tables whose rows are somebody's

Kind = Literal["subject", "session"]


class Owner(NamedTuple):
    """Whose rows: a subject, or a session, of a client; names as the store has them."""

    kind: Kind
    client: str
    name: str


class Named(NamedTuple):
    """What of a row says whose it is. `at_us`: when it began, in microseconds since the epoch."""

    table: str
    client: str
    subject: str | None
    session: str | None
    trace_id: str | None
    at_us: int


class Former(msgspec.Struct, frozen=True, kw_only=True):
    """What an earlier erasure of the same owners, over at `until_us`, found; as in `Erasure`."""

    until_us: int
    sessions: list[str]
    traces: list[str]


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """One entry. `until_us` None: under way, and everything of `owners` is kept out; else what began before.

    `owners` and `sessions` are digests: `sessions` of the sessions that the erased traces are in.
    An owner is in one entry, of the last erasure; `former` is what those before it found.
    """

    erasure: str
    asked_at_us: int
    until_us: int | None
    owners: list[str]
    sessions: list[str]
    traces: list[str]
    former: list[Former] = []


class Erasures(msgspec.Struct, frozen=True):
    """The file."""

    entries: list[Erasure] = []


class Watch:
    """The list as it is while it is held. `covers` says what must not be written."""

    def __init__(self, entries: list[Erasure], key: bytes, met: dict[str, None]) -> None:
        self._entries = entries
        self._key = key
        self._met = met
        self._traces: set[str] = set()
        # By digest, until when what began is covered, in microseconds since the epoch.
        self._owners: dict[str, float] = {}
        self._sessions: dict[str, float] = {}
        for entry in entries:
            until_us = math.inf if entry.until_us is None else entry.until_us
            _extend(self._owners, entry.owners, until_us)
            _extend(self._sessions, entry.sessions, until_us)
            self._traces.update(entry.traces)
            for former in entry.former:
                _extend(self._sessions, former.sessions, former.until_us)
                self._traces.update(former.traces)
        self._ended_us = max(self._owners.values(), default=_NEVER)
        self._under_way = {short(digest) for digest, until_us in self._owners.items() if until_us == math.inf}

    def __bool__(self) -> bool:
        return bool(self._entries)

    def is_over_at(self, at_us: int) -> bool:
        """Whether every erasure had ended before then: no trace that begins at *at_us* is covered."""
        return at_us > self._ended_us

    def covers(self, row: Named) -> bool:
        """Whether *row* belongs to what was erased. A covered trace's id is remembered for its feedback."""
        if row.table == "traces" and self.is_over_at(row.at_us):
            return False
        if row.trace_id is not None and (row.trace_id in self._traces or row.trace_id in self._met):
            return True
        known = (self._owners,) if row.table == "traces" else (self._owners, self._sessions)
        digests = _digests(self._key, row)
        if any(row.at_us <= ends.get(digest, _NEVER) for ends in known for digest in digests):
            self._remember(row)
            return True
        return False

    def takes_blob(self, blob: str) -> bool:
        """Whether *blob* is of an owner whose erasure is under way: what comes later may have it anew."""
        return not self._under_way.isdisjoint(owners_of_blob(blob))

    def _remember(self, row: Named) -> None:
        if row.table != "traces" or row.trace_id is None:
            return
        self._met[row.trace_id] = None
        if len(self._met) > MAX_MET:
            del self._met[next(iter(self._met))]


class ErasureList:
    """The list in *state*. One per process; not thread-safe."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._path = state / "erasures.json"
        self._stamp: tuple[int, int] | None = None
        self._met: dict[str, None] = {}
        self._watch = Watch([], b"", self._met)

    @contextlib.contextmanager
    def held(self) -> Iterator[Watch]:
        """The list, which nobody changes during the block. Raises OperationError where it cannot be read.

        For what is written to this disk: whoever changes the list waits for the block, and others for him.
        """
        with locked(self._state, shared=True):
            yield self._current()

    @contextlib.contextmanager
    def sending(self) -> Iterator[Watch]:
        """The list as it is, for a block that sends rows to the store, however long that takes.

        It may be changed meanwhile; `wait_until_sent` waits for the block. Raises OperationError as `held`.
        """
        with contextlib.ExitStack() as until_sent:
            with self.held() as watch:
                until_sent.enter_context(sending(self._state))
            yield watch

    def wait_until_sent(self, within_s: float = SENT_WAIT_S) -> None:
        """Until all that is being sent to the store now has got there or was given up. Raises OperationError.

        Who begins to send meanwhile is not waited for, and does not wait: he has read the list as it is now.
        """
        with locked(self._state, shared=False):
            part_with_senders(self._state)
        wait_until_sent(self._state, within_s)

    @contextlib.contextmanager
    def changed(self, change: Callable[[list[Erasure]], list[Erasure]]) -> Iterator[Watch]:
        """Replace the entries by *change* of them, on disk, while nobody else writes anything of any trace.

        When this has begun, what was being written is written, and all that follows is checked against it.
        """
        with locked(self._state, shared=False):
            entries = change(self._read().entries)
            try:
                replace_synced(self._path, msgspec.json.encode(Erasures(entries)))
            except OSError as error:
                raise OperationError(f"{self._path} cannot be written: {error.strerror}") from error
            yield self._current()

    def entries(self) -> list[Erasure]:
        """The entries as they are now."""
        with self.held():
            return self._read().entries

    def digest(self, owner: Owner) -> str:
        """How *owner* is named in the list."""
        return owner_digest(redaction_key(self._state / "redaction_key"), owner)

    def _current(self) -> Watch:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return self._watch
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp != self._stamp:
            key = redaction_key(self._state / "redaction_key")
            self._watch = Watch(self._read().entries, key, self._met)
            self._stamp = stamp
        return self._watch

    def _read(self) -> Erasures:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Erasures)
        except FileNotFoundError:
            return Erasures()
        except (OSError, msgspec.DecodeError) as error:
            # What cannot be read may forbid anything: nothing is written until somebody has looked.
            raise OperationError(
                f"{self._path} cannot be read ({error}); restore it, or remove it and repeat the erasures"
            ) from error


def named_row(table: str, row: Mapping[str, Any]) -> Named:
    """Whose *row* of `traces` or `feedback` is; a time may be text, as in quarantine."""
    at = row.get("started_at" if table == "traces" else "created_at")
    moment = msgspec.convert(at, datetime) if at is not None else _EPOCH
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return Named(
        table=table,
        client=str(row.get("client", "")),
        subject=row.get("subject"),
        session=row.get("session"),
        trace_id=row.get("trace_id"),
        at_us=(moment - _EPOCH) // _MICROSECOND,
    )


def owned_row(table: str, row: Mapping[str, Any]) -> Named | None:
    """Whose *row* of *table* is; None where rows of that table are nobody's."""
    return named_row(table, row) if table in _OWNED else None


def latest(entries: list[Erasure], entry: Erasure) -> Erasure:
    """*entry* with what those of *entries* found that it replaces: finished, with no other owner. Pure."""
    found = list(entry.former)
    for known in entries:
        if known.until_us is not None and set(known.owners) <= set(entry.owners):
            found += [
                *known.former,
                Former(until_us=known.until_us, sessions=known.sessions, traces=known.traces),
            ]
    return msgspec.structs.replace(entry, former=[one for one in found if one.sessions or one.traces])


def with_latest(entries: list[Erasure], entry: Erasure) -> list[Erasure]:
    """*entries* with *entry*, made by `latest` of them, in place of what they say of its owners. Pure."""
    owners = set(entry.owners)
    others = [
        msgspec.structs.replace(known, owners=[owner for owner in known.owners if owner not in owners])
        for known in entries
        if known.erasure != entry.erasure
    ]
    return [*(known for known in others if known.owners), entry]


def without_old(entries: list[Erasure], now_us: int, kept_days: float = KEPT_DAYS) -> list[Erasure]:
    """*entries* but for those that were finished, and what was found, more than *kept_days* ago. Pure."""
    oldest = now_us - round(kept_days * 24 * 3600 * 1_000_000)
    return [
        msgspec.structs.replace(entry, former=[one for one in entry.former if one.until_us >= oldest])
        for entry in entries
        if entry.until_us is None or entry.until_us >= oldest
    ]


def is_kept_out(watch: Watch, table: Any, row: Any) -> bool:
    """Whether *row* of *table* was erased while it was on its way."""
    if not watch or not isinstance(row, dict):
        return False
    if table == BLOBS:
        return watch.takes_blob(str(row.get("blob")))
    named = owned_row(table, row)
    return named is not None and watch.covers(named)


def _extend(ends: dict[str, float], digests: list[str], until_us: float) -> None:
    for digest in digests:
        ends[digest] = max(ends.get(digest, _NEVER), until_us)


def _digests(key: bytes, row: Named) -> list[str]:
    owners = []
    if row.subject is not None:
        owners.append(Owner("subject", row.client, row.subject))
    # Feedback that names a trace belongs to it, and not to whatever session it says besides.
    if row.session is not None and (row.table == "traces" or row.trace_id is None):
        owners.append(Owner("session", row.client, row.session))
    return [owner_digest(key, owner) for owner in owners]


def owner_digest(key: bytes, owner: Owner) -> str:
    """How *owner* is named where nobody shall read whom; *key* is the installation's redaction key."""
    text = "\0".join(owner).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, key=key, digest_size=16).hexdigest()
