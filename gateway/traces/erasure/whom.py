"""Whose data is meant by a name that a person types; and where nothing is found, the nearest reason why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from gateway.config.types import Config
from gateway.errors import UsageError
from gateway.paths import paths_of
from gateway.traces.capture_policy import policy_of
from gateway.traces.erasure.erasures import Kind, Owner
from gateway.traces.erasure.store import StoredRows
from gateway.traces.rows import RowBuilder
from gateway.traces.store import Store

_OTHER: dict[Kind, Kind] = {"subject": "session", "session": "subject"}
_SENT_AS: dict[Kind, str] = {
    "subject": "x-tracetune-user, safety_identifier or user",
    "session": "x-tracetune-session or metadata.session_id",
}


class Whom(msgspec.Struct, frozen=True, kw_only=True):
    """Whose data: the subject or session *name*, as a person types it.

    `clients` may have sent it; `only` are those that are meant, and need to be named where several know it.
    """

    kind: Kind
    name: str
    clients: Sequence[str] = ()
    only: Sequence[str] = ()


class Before(NamedTuple):
    """The last erasure of the same owners. `until_us` None: it had not got to its end."""

    erasure: str
    until_us: int | None


def names_of(config: Config) -> RowBuilder:
    """Names in rows, as the recorder writes them. Raises OperationError."""
    return RowBuilder(policy_of(config, paths_of(config).state / "redaction_key"))


def owners_of(config: Config, store: Store, whom: Whom) -> list[Owner]:
    """Whom the name means: as typed, and as redaction has it. Raises UsageError where that is not clear."""
    named = _naming(config, whom.name)
    if whom.only:
        return [owner for client in dict.fromkeys(whom.only) for owner in named(whom.kind, client)]
    possible = [owner for client in _clients(store, whom) for owner in named(whom.kind, client)]
    known = StoredRows(store, possible).clients()
    if len(known) > 1:
        listed = ", ".join(repr(client) for client in known)
        raise UsageError(
            f"several clients know a {whom.kind} of that name ({listed}), and may mean different people; "
            "name each that you mean with --client"
        )
    return named(whom.kind, known[0]) if known else possible


def why_nothing(config: Config, store: Store, whom: Whom, before: Before | None) -> str:
    """The nearest reason why nothing of *whom* was found, which does not quote a name. Raises StoreError."""
    clients = _clients(store, whom)
    unknown = [client for client in whom.only if client not in clients]
    if unknown:
        return (
            f"no client key {_listed(unknown)} is in the configuration, and none has sent traces; "
            f"there are {_listed(clients)}"
        )
    named = _naming(config, whom.name)

    def who_knows(kind: Kind, among: Iterable[str]) -> list[str]:
        owners = [owner for client in among for owner in named(kind, client)]
        return StoredRows(store, owners).clients() if owners else []

    if others := who_knows(whom.kind, [client for client in clients if client not in whom.only]):
        return f"of that name a {whom.kind} of client {_listed(others)} has traces: name it with --client"
    if before is not None:
        return _erased_before(before)
    other_kind = _OTHER[whom.kind]
    if others := who_knows(other_kind, whom.only or clients):
        return (
            f"of that name client {_listed(others)} has a {other_kind}: "
            f"erase it with --{other_kind} in place of --{whom.kind}"
        )
    near = store.query(
        f"SELECT DISTINCT client FROM traces WHERE lowerUTF8(trim({whom.kind})) "  # noqa: S608 -- one of two words
        "= lowerUTF8(trim({name:String})) ORDER BY client",
        {"name": whom.name},
    )
    if near:
        return (
            f"client {_listed(row['client'] for row in near)} has a {whom.kind} whose name differs in case "
            "or spaces alone, which is another one: give it as it was sent"
        )
    return f"no trace names it; give it as the app sends it ({_SENT_AS[whom.kind]})"


def _erased_before(before: Before) -> str:
    if before.until_us is None:
        return f"an erasure that had not got to its end ({before.erasure}) had removed it, and is ended now"
    ended = datetime.fromtimestamp(before.until_us / 1e6, UTC)
    return f"it was erased before ({before.erasure}, {ended:%Y-%m-%d %H:%M} UTC), and nothing came since"


def _naming(config: Config, name: str) -> Callable[[Kind, str], list[Owner]]:
    """The owners that *name* may stand for, of a kind and a client."""
    # Redaction may have been on before, and off now.
    always = msgspec.structs.replace(config.privacy, redact="builtin")
    redacting = names_of(msgspec.structs.replace(config, privacy=always))

    def of(kind: Kind, client: str) -> list[Owner]:
        return [Owner(kind, client, one) for one in sorted({name, redacting.stored_name(name, client)})]

    return of


def _clients(store: Store, whom: Whom) -> list[str]:
    """All that may have sent the name."""
    stored = {row["client"] for row in store.query("SELECT DISTINCT client FROM traces")}
    return sorted({*whom.clients, *stored})


def _listed(clients: Iterable[str]) -> str:
    return ", ".join(repr(client) if client else "'' (without a key)" for client in clients)
