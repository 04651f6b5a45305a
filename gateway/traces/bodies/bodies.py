"""The one place where stored bodies become readable again: decrypted, and their shared parts joined.

Everything that reads a body goes through here. A body whose key was destroyed reads as
`markers.ERASED`, never as an exception and never as nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gateway.errors import ConfigError
from gateway.traces.bodies.blobs import blob_place
from gateway.traces.bodies.shared_parts import TRACES, join
from gateway.traces.encryption.sealing import (
    DamagedBodyError,
    Sealer,
    is_sealed,
    parse_sealed,
    read_unsealed,
    unseal,
    unsealed,
)
from gateway.traces.markers import ERASED, unreadable
from gateway.traces.types import Feedback, Trace

if TYPE_CHECKING:
    from gateway.traces.encryption.key_source import KeySource
    from gateway.traces.encryption.keyring import Keyring


Ask = Callable[[str, dict[str, Any]], list[dict[str, Any]]]  # as Store.query
MAX_CACHED_BLOB_BYTES = 32 << 20


def _no_store(_: str, __: dict[str, Any]) -> list[dict[str, Any]]:
    return []


class Owner(NamedTuple):
    """Whose key a text is under: a subject's of a client, else a session's; names as the store has them."""

    client: str
    subject: str | None
    session: str


class Bodies:
    """Reads stored bodies, and encrypts what is made of them. For one thread.

    `open_keyring` is asked when the first key is needed. `encrypts`: what is written is to be encrypted.
    """

    def __init__(
        self, open_keyring: Callable[[], Keyring | None], *, ask: Ask = _no_store, encrypts: bool = False
    ) -> None:
        self._open_keyring = open_keyring
        self._ask = ask
        self._blobs: dict[str, bytes] = {}
        self._blob_bytes = 0
        self._keyring: Keyring | None = None
        self._sealer = Sealer()
        self.encrypts = encrypts

    @classmethod
    def of(cls, source: KeySource | None, environ: Mapping[str, str], ask: Ask = _no_store) -> Bodies:
        """With the keyring of *source* (None: there is none), and the store that *ask* asks for blobs."""
        if source is None:
            return cls(lambda: None, ask=ask)

        def open_it() -> Keyring | None:
            from gateway.traces.encryption.keyring import open_keyring  # cryptography, for those who encrypt

            return open_keyring(source, environ)

        return cls(open_it, ask=ask, encrypts=source.encrypts)

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

    def body(self, stored: str, place: str) -> str:
        """The same of a request or a response, as it was before its shared parts were taken out.

        Raises StoreError besides.
        """
        text = self.text(stored, place)
        if not any(trace in text for trace in TRACES):
            return text
        try:
            split = msgspec.json.decode(text)
        except msgspec.DecodeError:
            return text  # quoted in what is no JSON
        return msgspec.json.encode(join(split, lambda blob: self._blob(blob, place))).decode()

    def trace(self, row: Trace) -> Trace:
        """*row* with its bodies readable. Raises as `body` does."""
        return msgspec.structs.replace(
            row,
            **{
                column: self.body(stored, place_of("traces", column, row.trace_id))
                for column in ("request", "response")
                if (stored := getattr(row, column)) is not None
            },
        )

    def lenient_trace(self, row: Trace) -> Trace:
        """The same, but what is damaged says so in place of its bodies.

        Raises KeyringError, ConfigError, StoreError.
        """
        try:
            return self.trace(row)
        except DamagedBodyError as error:
            told = unreadable(str(error))
            return msgspec.structs.replace(row, request=told, response=told)

    def feedback(self, row: Feedback) -> Feedback:
        """*row* with its text readable. Raises as `text` does."""
        if row.text is None:
            return row
        text = self.text(row.text, place_of("feedback", "text", row.feedback_id))
        return msgspec.structs.replace(row, text=text)

    def feedbacks(self, rows: Sequence[Feedback]) -> list[Feedback]:
        """*rows* with their texts readable; a damaged one says so in place of its text.

        Raises KeyringError, ConfigError.
        """
        return [self._said(row) for row in rows]

    def _said(self, row: Feedback) -> Feedback:
        try:
            return self.feedback(row)
        except DamagedBodyError as error:
            return msgspec.structs.replace(row, text=unreadable(str(error)))

    def _blob(self, blob: str, place: str) -> Any:
        content = self._blobs.get(blob)
        if content is None:
            rows = self._ask("SELECT content FROM blobs WHERE blob = {blob:String} LIMIT 1", {"blob": blob})
            if not rows:
                raise DamagedBodyError(f"{place} refers to blob {blob}, which the store does not have")
            content = self.text(str(rows[0]["content"]), blob_place(blob)).encode()
            self._remember(blob, content)
        return msgspec.json.decode(content)

    def _remember(self, blob: str, content: bytes) -> None:
        while self._blobs and self._blob_bytes + len(content) > MAX_CACHED_BLOB_BYTES:
            self._blob_bytes -= len(self._blobs.pop(next(iter(self._blobs))))
        self._blobs[blob] = content
        self._blob_bytes += len(content)

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


def detail_place(trace_id: str, judge: str) -> str:
    """The same of what stands behind a judgment's score."""
    return place_of("judgments", "detail", f"{trace_id} by {judge}")
