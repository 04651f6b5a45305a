"""The one place where stored bodies become readable again: decrypted, and their shared parts joined.

Everything that reads a body goes through here. A body whose key was destroyed reads as
`markers.ERASED`, never as an exception and never as nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from gateway.errors import ConfigError
from gateway.traces.markers import ERASED, unreadable
from gateway.traces.sealing import (
    DamagedBodyError,
    Sealer,
    is_sealed,
    parse_sealed,
    read_unsealed,
    unseal,
    unsealed,
)
from gateway.traces.types import Feedback, Trace

if TYPE_CHECKING:
    from gateway.traces.key_source import KeySource
    from gateway.traces.keyring import Keyring


class Owner(NamedTuple):
    """Whose key a text is under: a subject's of a client, else a session's; names as the store has them."""

    client: str
    subject: str | None
    session: str


class Bodies:
    """Reads stored bodies, and encrypts what is made of them. For one thread.

    `open_keyring` is asked when the first key is needed. `encrypts`: what is written is to be encrypted.
    """

    def __init__(self, open_keyring: Callable[[], Keyring | None], *, encrypts: bool = False) -> None:
        self._open_keyring = open_keyring
        self._keyring: Keyring | None = None
        self._sealer = Sealer()
        self.encrypts = encrypts

    @classmethod
    def of(cls, source: KeySource | None, environ: Mapping[str, str]) -> Bodies:
        """With the keyring of *source*; None: there is none."""
        if source is None:
            return cls(lambda: None)

        def open_it() -> Keyring | None:
            from gateway.traces.keyring import open_keyring  # cryptography, for those who encrypt

            return open_keyring(source, environ)

        return cls(open_it, encrypts=source.encrypts)

    def seal(self, text: str, owner: Owner, place: str) -> str:
        """*text* in the form in which it may be written at *place*: encrypted where what is written is.

        Its key is on disk on return. Raises KeyringError, ConfigError.
        """
        if not self.encrypts:
            return unsealed(text)
        keyring = self._keys(place)
        key = keyring.key_for(*owner)
        keyring.commit()
        return self._sealer.seal(text, key, place)

    def text(self, stored: str, place: str) -> str:
        """What was written at *place*; ERASED where its key was destroyed.

        Raises DamagedBodyError naming the place, KeyringError and ConfigError for the keys themselves.
        """
        if not is_sealed(stored):
            return read_unsealed(stored)
        sealed = parse_sealed(stored, place)
        key = self._keys(place).read(sealed.key)
        return ERASED if key is None else unseal(sealed, key, place)

    def trace(self, row: Trace) -> Trace:
        """*row* with its bodies readable. Raises as `text` does."""
        return msgspec.structs.replace(
            row,
            request=self._column(row.request, place_of("traces", "request", row.trace_id)),
            response=self._column(row.response, place_of("traces", "response", row.trace_id)),
        )

    def traces(self, rows: Sequence[Trace]) -> list[Trace]:
        """*rows* with their bodies readable; a damaged one says so in place of its bodies.

        Raises KeyringError, ConfigError.
        """
        return [self._whole(row) for row in rows]

    def feedback(self, row: Feedback) -> Feedback:
        """*row* with its text readable. Raises as `text` does."""
        return msgspec.structs.replace(
            row, text=self._column(row.text, place_of("feedback", "text", row.feedback_id))
        )

    def feedbacks(self, rows: Sequence[Feedback]) -> list[Feedback]:
        """*rows* with their texts readable; a damaged one says so in place of its text.

        Raises KeyringError, ConfigError.
        """
        return [self._said(row) for row in rows]

    def _whole(self, row: Trace) -> Trace:
        try:
            return self.trace(row)
        except DamagedBodyError as error:
            return msgspec.structs.replace(
                row, request=unreadable(str(error)), response=unreadable(str(error))
            )

    def _said(self, row: Feedback) -> Feedback:
        try:
            return self.feedback(row)
        except DamagedBodyError as error:
            return msgspec.structs.replace(row, text=unreadable(str(error)))

    def _column(self, stored: str | None, place: str) -> str | None:
        return None if stored is None else self.text(stored, place)

    def _keys(self, place: str) -> Keyring:
        if self._keyring is None:
            self._keyring = self._open_keyring()
        if self._keyring is None:
            raise ConfigError(
                f"{place} is encrypted; name the key it was written with as privacy.master_key to read it"
            )
        return self._keyring


def place_of(table: str, column: str, row_id: str) -> str:
    """What an encrypted text is bound to, and how errors name it."""
    return f"{table}.{column} of {row_id}"


def reason_place(trace_id: str, judge: str) -> str:
    """The same of a judgment's reason."""
    return place_of("judgments", "reason", f"{trace_id} by {judge}")
