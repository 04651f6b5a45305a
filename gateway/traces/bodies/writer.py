"""What redacted bodies become before they are written: split, cut, encrypted, in this order."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gateway.traces.assembling.jsontext import MAX_BODY_BYTES, json_text
from gateway.traces.bodies.blobs import BlobRow, Splitter
from gateway.traces.bodies.bodies import Owner, place_of
from gateway.traces.encryption.sealing import Sealer, unsealed
from gateway.traces.types import Feedback

if TYPE_CHECKING:
    from gateway.traces.encryption.keyring import Keyring


class WrittenBodies(NamedTuple):
    """The two columns of a trace, and what they refer to."""

    request: str | None
    response: str | None
    blobs: Sequence[BlobRow]


class BodyWriter:
    """Writes bodies of at most `body_bytes` (`capture.body_bytes`). For one thread.

    With the *owner_key*, the installation's redaction key, images of a session are stored once for it. With a
    *keyring* they are encrypted; its `commit` is to be called before anything of it reaches a disk.
    """

    def __init__(
        self,
        keyring: Keyring | None = None,
        *,
        body_bytes: int = MAX_BODY_BYTES,
        owner_key: bytes | None = None,
    ) -> None:
        self._keyring = keyring
        self._body_bytes = body_bytes
        self._sealer = Sealer()
        self._splitter = Splitter(keyring, body_bytes, owner_key)

    def bodies(
        self, owner: Owner, trace_id: str, started_at: datetime, request: Any, response: Any
    ) -> WrittenBodies:
        """What is stored of a trace's decoded, redacted bodies. None: there is none. Raises KeyringError."""
        blobs: list[BlobRow] = []
        texts: list[str | None] = []
        # Of a trace that is a session of its own nobody knows whether its person was there before.
        is_anonymous = owner.subject is None and owner.session == trace_id
        counted = None if is_anonymous else (owner.subject, owner.session)
        for column, body in (("request", request), ("response", response)):
            if body is None:
                texts.append(None)
                continue
            split, named = self._splitter.split(
                body, client=owner.client, owner=counted, started_at=started_at
            )
            blobs += named
            text = json_text(split, self._body_bytes)
            texts.append(self._sealed(text, owner, place_of("traces", column, trace_id)))
        return WrittenBodies(texts[0], texts[1], blobs)

    def feedback_text(self, owner: Owner, feedback_id: str, text: str) -> str:
        """What is stored of a redacted text of feedback. Raises KeyringError."""
        return self._sealed(text, owner, place_of("feedback", "text", feedback_id))

    def sealed_feedback(self, row: Feedback) -> Feedback:
        """*row*, redacted and with its own id, as it is stored: under a key named by what it is about.

        An erasure of the trace destroys that key, whoever's trace it is.
        """
        if row.text is None:
            return row
        owner = Owner(row.client, None, row.trace_id or row.session or row.feedback_id)
        return msgspec.structs.replace(row, text=self.feedback_text(owner, row.feedback_id, row.text))

    def _sealed(self, text: str, owner: Owner, place: str) -> str:
        if self._keyring is None:
            return unsealed(text)
        return self._sealer.seal(text, self._keyring.key_for(*owner), place)
