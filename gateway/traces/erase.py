"""Forgets a person: everything of a subject, or of a session, wherever it is kept or on its way.

In this order, each step safe to repeat: the list of erasures keeps out what is on its way; shared memory,
spool and quarantine are rewritten; keys are destroyed; what was learnt from loses its rows; the store's parts
are rewritten. An entry that was not finished keeps everything of its owners out until the same is asked for again.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from gateway.config.types import Config
from gateway.errors import UsageError
from gateway.paths import Paths, paths_of
from gateway.traces.erase_files import erase_from_quarantine, erase_from_spool, scrub_segments
from gateway.traces.erase_store import StoredRows, Tell
from gateway.traces.erasures import Erasure, ErasureList, Kind, Named, Owner, without_old
from gateway.traces.redact import Redactor, redaction_key
from gateway.traces.rows import RowBuilder
from gateway.traces.shipper import QUARANTINE
from gateway.traces.stage import only_one
from gateway.traces.store import Store

# Takes the id of an erasure, whose traces are in the list: removes them from what was learnt from.
Unlearn = Callable[[str], "Unlearnt"]


class TouchedDataset(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset that had rows of erased traces, and how many it lost."""

    dataset: str
    train: int
    holdout: int


class TouchedSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot that learnt from erased traces, or whose parent did. `serves`: so it was not retired."""

    snapshot: str
    route: str
    state: str
    serves: bool


class Unlearnt(msgspec.Struct, frozen=True, kw_only=True):
    """What became of what was learnt from erased traces."""

    datasets: list[TouchedDataset] = []
    runs: list[str] = []
    snapshots: list[TouchedSnapshot] = []


class Whom(msgspec.Struct, frozen=True, kw_only=True):
    """Whose data: the subject or session *name*, as a person types it.

    `clients` may have sent it; `only` are those that are meant, and need to be named where several know it.
    """

    kind: Kind
    name: str
    clients: Sequence[str] = ()
    only: Sequence[str] = ()


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """What an erasure removed, this call alone: rows by where they were.

    `unnamed` traces without a subject stay, though they are in sessions of the subject; `damaged` records of
    the quarantine could not say whose they were.
    """

    erasure: str
    kind: Kind
    clients: list[str]
    traces: int
    judgments: int
    feedback: int
    spool: int
    memory: int
    damaged: int
    keys: int
    unnamed: int
    unlearnt: Unlearnt


def erase(
    config: Config,
    store: Store,
    whom: Whom,
    *,
    unlearn: Unlearn,
    environ: Mapping[str, str] = os.environ,
    clock: Callable[[], int] = time.time_ns,
    tell: Tell = lambda _: None,
) -> Erased:
    """Erase everything of *whom*, in every place that `docs/data.md` lists, and say what that was.

    Raises UsageError where several clients know that name: they may mean different people. Raises
    OperationError, saying what to do, when a stage or the store is not done in time, and StoreError; the same
    call then goes on.
    """
    paths = paths_of(config)
    with only_one(paths.state / "erase.lock", "erasure"):
        owners = _owners(paths, store, whom)
        return _Erasing(config, paths, store, owners, clock, tell).run(whom.kind, unlearn, environ)


class _Erasing:
    """One erasure, from the entry in the list to the last byte."""

    def __init__(
        self,
        config: Config,
        paths: Paths,
        store: Store,
        owners: Sequence[Owner],
        clock: Callable[[], int],
        tell: Tell,
    ) -> None:
        self._paths = paths
        self._owners = owners
        self._rows = StoredRows(store, owners)
        self._clock = clock
        self._tell = tell
        self._config = config
        self._list = ErasureList(paths.state)
        self._entry = self._begun()

    def run(self, kind: Kind, unlearn: Unlearn, environ: Mapping[str, str]) -> Erased:
        stored = self._rows.traces()
        # From here on nothing of the owners is written anywhere; what was being written is.
        self._note(stored)
        memory = self._scrub()
        spooled: list[Named] = []
        damaged = self._rewrite(spooled)
        stored = self._rows.traces()
        self._note(stored)
        keys = self._destroy_keys(environ)
        unlearnt = unlearn(self._entry.erasure)
        pairs = sorted({(client, session) for _, client, session in stored} | self._session_owners())
        unnamed = self._rows.unnamed(pairs) if kind == "subject" else 0
        removed = self._rows.erase(self._entry.traces, pairs, self._clock() // 1000, self._tell)
        self._rows.clear(self._tell)
        memory += self._scrub()  # what came meanwhile, and feedback on what only the store knew
        self._finish()
        return Erased(
            erasure=self._entry.erasure,
            kind=kind,
            clients=sorted({owner.client for owner in self._owners}),
            traces=removed["traces"],
            judgments=removed["judgments"],
            feedback=removed["feedback"],
            spool=len(spooled),
            memory=memory,
            damaged=damaged,
            keys=keys,
            unnamed=unnamed,
            unlearnt=unlearnt,
        )

    def _begun(self) -> Erasure:
        """The entry of the same owners that was not finished, or a new one that is not in the list yet."""
        digests = sorted(self._list.digest(owner) for owner in self._owners)
        for entry in self._list.entries():
            if entry.until_us is None and entry.owners == digests:
                return entry
        return Erasure(
            erasure=f"er-{os.urandom(6).hex()}",
            asked_at_us=self._clock() // 1000,
            until_us=None,
            owners=digests,
            sessions=[],
            traces=[],
        )

    def _note(self, stored: Iterable[tuple[str, str, str]] = (), traces: Iterable[Named] = ()) -> None:
        """Have the ids and sessions in the entry, on disk."""
        found = {(trace, client, session) for trace, client, session in stored}
        found |= {
            (n.trace_id, n.client, n.session or "") for n in traces if n.table == "traces" and n.trace_id
        }
        sessions = {self._list.digest(Owner("session", client, session)) for _, client, session in found}
        entry = msgspec.structs.replace(
            self._entry,
            traces=sorted({*self._entry.traces, *(trace for trace, _, _ in found)}),
            sessions=sorted({*self._entry.sessions, *sessions}),
        )
        with self._list.changed(lambda entries: _with(entries, entry)):
            self._entry = entry

    def _finish(self) -> None:
        now_us = self._clock() // 1000
        entry = msgspec.structs.replace(self._entry, until_us=now_us)
        with self._list.changed(lambda entries: _with(without_old(entries, now_us), entry)):
            self._entry = entry

    def _scrub(self) -> int:
        names = _names(self._config, self._paths)
        with self._list.changed(lambda entries: entries) as watch:
            found = scrub_segments(self._paths.segments, watch, names)
        self._note(traces=found)
        return len(found)

    def _rewrite(self, spooled: list[Named]) -> int:
        def found(rows: list[Named]) -> None:
            self._note(traces=rows)
            spooled.extend(rows)

        with self._list.held() as watch:
            pass  # as it is now: our entry stays in it, and only we add to it
        self._tell("spool")
        erase_from_spool(self._paths.spool, watch, found)
        with self._list.changed(lambda entries: entries) as watch:
            rows: list[Named] = []
            damaged = erase_from_quarantine(self._paths.spool / QUARANTINE, watch, rows.extend)
        found(rows)
        return damaged

    def _destroy_keys(self, environ: Mapping[str, str]) -> int:
        if self._config.privacy.master_key is None:
            return 0
        from gateway.traces.keyring import open_keyring  # loads cryptography, which not everybody needs

        keyring = open_keyring(self._config, environ)
        assert keyring is not None, "a master key is named"
        with contextlib.closing(keyring):
            destroyed = 0
            for client in {owner.client for owner in self._owners}:
                for owner in self._owners:
                    if owner.client == client and owner.kind == "subject":
                        destroyed += keyring.destroy(client, owner.name)
                # Feedback that met no trace is under a key of its own, named by what it was about.
                sessions = {name for of, name in self._session_owners() if of == client}
                destroyed += keyring.destroy(client, sessions=[*sessions, *self._entry.traces])
        return destroyed

    def _session_owners(self) -> set[tuple[str, str]]:
        return {(owner.client, owner.name) for owner in self._owners if owner.kind == "session"}


def _owners(paths: Paths, store: Store, whom: Whom) -> list[Owner]:
    """Whom the name means: as typed, and as redaction has it. Raises UsageError where that is not clear."""
    redacting = RowBuilder(Redactor(redaction_key(paths.state / "redaction_key")))

    def of(client: str) -> list[Owner]:
        names = {whom.name, redacting.stored_name(whom.name, client)}
        return [Owner(whom.kind, client, name) for name in sorted(names)]

    if whom.only:
        return [owner for client in dict.fromkeys(whom.only) for owner in of(client)]
    stored = {row["client"] for row in store.query("SELECT DISTINCT client FROM traces")}
    possible = [owner for client in sorted({*whom.clients, *stored}) for owner in of(client)]
    known = StoredRows(store, possible).clients()
    if len(known) > 1:
        listed = ", ".join(repr(client) for client in known)
        raise UsageError(
            f"several clients know a {whom.kind} of that name ({listed}), and may mean different people; "
            "name each that you mean with --client"
        )
    return of(known[0]) if known else possible


def _names(config: Config, paths: Paths) -> RowBuilder:
    """Names in rows, as the recorder writes them."""
    redact = config.privacy.redact == "builtin"
    return RowBuilder(Redactor(redaction_key(paths.state / "redaction_key")) if redact else None)


def _with(entries: Sequence[Erasure], entry: Erasure) -> list[Erasure]:
    return [*(known for known in entries if known.erasure != entry.erasure), entry]
