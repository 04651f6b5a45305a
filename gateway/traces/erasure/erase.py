"""Forgets a person: everything of a subject, or of a session, wherever it is kept or on its way.

In this order, each step safe to repeat: the list of erasures keeps out what is on its way; shared memory is
overwritten; what was being sent to the store gets there; spool and quarantine are rewritten; keys are
destroyed; what was learnt from loses its rows; the store's parts are rewritten. An entry that is not finished
keeps everything of its owners out until the same is asked again.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from gateway.config.types import Config
from gateway.errors import ConfigError
from gateway.paths import Paths, paths_of
from gateway.traces.erasure.erasures import (
    KEPT_DAYS,
    Erasure,
    ErasureList,
    Kind,
    Named,
    Owner,
    latest,
    with_latest,
    without_old,
)
from gateway.traces.erasure.files import erase_from_quarantine, erase_from_spool, scrub_segments
from gateway.traces.erasure.store import PASSES, StoredRows, Tell
from gateway.traces.erasure.whom import Before, Whom, names_of, owners_of, why_nothing
from gateway.traces.layout import layout_of
from gateway.traces.spool.quarantine import QUARANTINE
from gateway.traces.stage import only_one
from gateway.traces.store import Store
from gateway.traces.types import BLOBS

if TYPE_CHECKING:
    from gateway.traces.encryption.keyring import Keyring

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
    """What became of what was learnt from erased traces. `at_work`: routes whose run may know some."""

    datasets: list[TouchedDataset] = []
    snapshots: list[TouchedSnapshot] = []
    at_work: list[str] = []


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """What an erasure removed, this call alone: rows by where they were. `blobs`: images kept once a session.

    `unnamed` traces without a subject stay, though they are in sessions of the subject; `damaged` records of
    the quarantine could not say whose they were. `nothing`: why there was nothing of them, as far as that can
    be told; None: there was something.
    """

    erasure: str
    kind: Kind
    clients: list[str]
    traces: int
    judgments: int
    feedback: int
    blobs: int
    spool: int
    memory: int
    damaged: int
    keys: int
    unnamed: int
    unlearnt: Unlearnt
    nothing: str | None = None

    @property
    def found_any(self) -> bool:
        """Whether anything of them was anywhere."""
        found = (self.traces, self.judgments, self.feedback, self.blobs, self.spool, self.memory, self.keys)
        return any(found) or bool(self.unlearnt.datasets or self.unlearnt.snapshots)


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
    call then goes on. While a learning run is at work on erased rows (`unlearnt.at_work`) it is not finished:
    the same call after the run's end finishes it.
    """
    paths = paths_of(config)
    with only_one(paths.state / "erase.lock", "erasure"):
        owners = owners_of(config, store, whom)
        erasing = _Erasing(config, paths, store, owners, clock, tell)
        done = erasing.run(whom.kind, unlearn, environ)
        if done.found_any:
            return done
        return msgspec.structs.replace(done, nothing=why_nothing(config, store, whom, erasing.before))


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
        self._rows = StoredRows(store, owners, layout_of(config.store))
        self._clock = clock
        self._tell = tell
        self._config = config
        self._list = ErasureList(paths.state)
        self._entry = self._begun()

    def run(self, kind: Kind, unlearn: Unlearn, environ: Mapping[str, str]) -> Erased:
        # First: what begins keeps the owners' traffic out until it is finished, which takes the right key.
        keyring = _keyring(self._config, environ)
        try:
            return self._run(kind, unlearn, keyring)
        finally:
            if keyring is not None:
                keyring.close()

    def _run(self, kind: Kind, unlearn: Unlearn, keyring: Keyring | None) -> Erased:
        stored = self._rows.traces()
        # From here on nothing of the owners is written anywhere; what was being written is.
        self._note(stored)
        memory = self._scrub()
        self._tell("rows that are being sent to the store")
        self._list.wait_until_sent()
        self._rows.wait_for_inserts(self._tell)
        spooled: list[Named] = []
        damaged = self._rewrite(spooled)
        stored = self._rows.traces()
        self._note(stored)
        pairs = sorted({(client, session) for _, client, session in stored} | self._session_owners())
        unnamed = self._rows.unnamed(pairs) if kind == "subject" else 0
        # What names no subject is under the key of its session, which it keeps where such traces stay.
        keys = 0 if keyring is None else self._destroy_keys(keyring, [] if unnamed else pairs)
        unlearnt = unlearn(self._entry.erasure)
        removed = self._rows.erase(
            self._entry.traces, pairs, self._entry.owners, self._clock() // 1000, self._tell
        )
        self._rows.clear(self._tell)
        memory += self._scrub()  # what came meanwhile, and feedback on what only the store knew
        if not unlearnt.at_work:
            self._finish()
        return Erased(
            erasure=self._entry.erasure,
            kind=kind,
            clients=sorted({owner.client for owner in self._owners}),
            traces=removed["traces"],
            judgments=removed["judgments"],
            feedback=removed["feedback"],
            blobs=removed.get(BLOBS, 0),
            spool=len(spooled),
            memory=memory,
            damaged=damaged,
            keys=keys,
            unnamed=unnamed,
            unlearnt=unlearnt,
        )

    def _begun(self) -> Erasure:
        """A new entry, not yet in the list, that takes the place of the owners' former ones.

        Killed, an erasure may have left less in the store than the clients can be told by that it began with:
        an entry that was not finished is the same erasure where any of its owners is.
        """
        owners = {self._list.digest(owner) for owner in self._owners}
        entries = self._list.entries()
        begun = [entry for entry in entries if entry.until_us is None and not owners.isdisjoint(entry.owners)]
        # One that was not finished, else the last one that was.
        self.before = max(
            (
                Before(entry.erasure, entry.until_us)
                for entry in entries
                if not owners.isdisjoint(entry.owners)
            ),
            key=lambda before: math.inf if before.until_us is None else before.until_us,
            default=None,
        )
        entry = Erasure(
            erasure=begun[0].erasure if begun else f"er-{os.urandom(6).hex()}",
            asked_at_us=begun[0].asked_at_us if begun else self._clock() // 1000,
            until_us=None,
            owners=sorted(owners.union(*(entry.owners for entry in begun))),
            sessions=sorted({session for entry in begun for session in entry.sessions}),
            traces=sorted({trace for entry in begun for trace in entry.traces}),
            former=[one for entry in begun for one in entry.former],
        )
        return latest(entries, entry)

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
        with self._list.changed(lambda entries: self._with(entries, entry)):
            self._entry = entry

    def _finish(self) -> None:
        now_us = self._clock() // 1000
        entry = msgspec.structs.replace(self._entry, until_us=now_us)
        with self._list.changed(lambda entries: self._with(entries, entry)):
            self._entry = entry

    def _scrub(self) -> int:
        names = names_of(self._config)
        with self._list.changed(lambda entries: entries) as watch:
            found = scrub_segments(self._paths.segments, watch, names)
        self._note(traces=found)
        return len(found)

    def _rewrite(self, spooled: list[Named]) -> int:
        def found(rows: list[Named]) -> None:
            self._note(traces=rows)
            spooled.extend(rows)

        damaged = 0
        self._tell("spool")
        for _ in range(PASSES):
            before = len(spooled)
            with self._list.held() as watch:
                pass  # as it is now: our entry stays in it, and only we add to it
            erase_from_spool(self._paths.spool, watch, found)
            with self._list.changed(lambda entries: entries) as watch:
                rows: list[Named] = []
                damaged += erase_from_quarantine(self._paths.spool / QUARANTINE, watch, rows.extend)
            found(rows)
            if len(spooled) == before:
                break  # else there may be feedback, before its trace, on what was found only now
        return damaged

    def _destroy_keys(self, keyring: Keyring, pairs: Sequence[tuple[str, str]]) -> int:
        destroyed = 0
        for client in {owner.client for owner in self._owners}:
            for owner in self._owners:
                if owner.client == client and owner.kind == "subject":
                    destroyed += keyring.destroy(client, owner.name)
            # Feedback that met no trace is under a key of its own, named by what it was about.
            sessions = {name for of, name in {*self._session_owners(), *pairs} if of == client}
            destroyed += keyring.destroy(client, sessions=[*sessions, *self._entry.traces])
        return destroyed

    def _with(self, entries: list[Erasure], entry: Erasure) -> list[Erasure]:
        kept_days = max(KEPT_DAYS, self._config.capture.max_age_days)
        return without_old(with_latest(entries, entry), self._clock() // 1000, kept_days)

    def _session_owners(self) -> set[tuple[str, str]]:
        return {(owner.client, owner.name) for owner in self._owners if owner.kind == "session"}


def _keyring(config: Config, environ: Mapping[str, str]) -> Keyring | None:
    """The keys; None where no master key is named. Raises ConfigError, KeyringError."""
    if config.privacy.master_key is None:
        path = paths_of(config).keyring
        if path.exists():
            raise ConfigError(
                f"the keys in {path} are destroyed with the master key alone: name it as privacy.master_key, "
                "or remove the file where nobody shall read what they encrypted"
            )
        return None
    from gateway.traces.encryption.key_source import KeySource
    from gateway.traces.encryption.keyring import (
        open_keyring,  # loads cryptography, which not everybody needs
    )

    return open_keyring(KeySource.of(config), environ)
