"""The form of an encrypted text: JSON that says what it is, so that `tracetune sql` shows ciphertext.

`{"x_tracetune":{"sealed":"zstd+aes-256-gcm","key":ID,"data":BASE64}}`. The data is a fresh nonce, the
compressed text under AES-256-GCM, and its tag. What it belongs to is bound to it: moved to another row or
column, it does not open.
"""

from __future__ import annotations

import binascii
import os
import sys
from typing import TYPE_CHECKING

import msgspec

from gateway.errors import OperationError
from gateway.traces.assembling.jsontext import MARKER

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from gateway.traces.encryption.keyring import DataKey

METHOD = "zstd+aes-256-gcm"
NONCE_BYTES = 12
ZSTD_LEVEL = 3  # half as large as the text for 11 µs per 2.4 KB; 6 takes twice that for one percent
MAX_TEXT_BYTES = 256 << 20  # of one text; what is compressed further than we do is not ours
PREFIX = f'{{"{MARKER}":{{"sealed":'
LITERAL_PREFIX = f'{{"{MARKER}":{{"literal":'


class DamagedBodyError(OperationError):
    """A stored text is not what was written there. The message names the row and no text."""


class Sealed(msgspec.Struct, frozen=True):
    """A sealed text taken apart."""

    sealed: str
    key: str
    data: str


class _Literal(msgspec.Struct, frozen=True):
    literal: str


class _LiteralEnvelope(msgspec.Struct, frozen=True):
    x_tracetune: _Literal


class _Envelope(msgspec.Struct, frozen=True):
    x_tracetune: Sealed


class Sealer:
    """Encrypts texts. For one thread."""

    def __init__(self) -> None:
        self._compressor = zstd.ZstdCompressor(level=ZSTD_LEVEL)

    def seal(self, text: str, key: DataKey, place: str) -> str:
        """*text* under *key*, to be found at *place* ("traces.request of ID") and nowhere else."""
        packed = self._compressor.compress(text.encode(), zstd.ZstdCompressor.FLUSH_FRAME)
        nonce = os.urandom(NONCE_BYTES)
        data = nonce + key.cipher.encrypt(nonce, packed, _bound(key.id, place))
        encoded = binascii.b2a_base64(data, newline=False).decode()
        return f'{PREFIX}"{METHOD}","key":"{key.id}","data":"{encoded}"}}}}'


def unsealed(text: str) -> str:
    """*text* as it is stored without encryption: itself, or marked where it looks like a form of ours."""
    if not text.startswith((PREFIX, LITERAL_PREFIX)):
        return text
    return msgspec.json.encode(_LiteralEnvelope(_Literal(text))).decode()


def read_unsealed(stored: str) -> str:
    """The text that `unsealed` was given."""
    if not stored.startswith(LITERAL_PREFIX):
        return stored
    return msgspec.json.decode(stored, type=_LiteralEnvelope).x_tracetune.literal


def is_sealed(stored: str) -> bool:
    """Whether *stored* is an encrypted text."""
    return stored.startswith(PREFIX)


def parse_sealed(stored: str, place: str) -> Sealed:
    """The parts of a sealed text. Raises DamagedBodyError."""
    try:
        sealed = msgspec.json.decode(stored, type=_Envelope).x_tracetune
    except msgspec.DecodeError as error:
        raise DamagedBodyError(f"{place} is damaged: it is no whole sealed text") from error
    if sealed.sealed != METHOD:
        raise DamagedBodyError(f"{place} was written by another version of tracetune; upgrade to read it")
    return sealed


def unseal(sealed: Sealed, key: DataKey, place: str) -> str:
    """The text. Raises DamagedBodyError where a bit is another one, or it does not belong to *place*."""
    from cryptography.exceptions import InvalidTag

    try:
        data = binascii.a2b_base64(sealed.data, strict_mode=True)
        packed = key.cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], _bound(key.id, place))
        decompressor = zstd.ZstdDecompressor()
        text = decompressor.decompress(packed, MAX_TEXT_BYTES).decode()
    except (InvalidTag, ValueError, zstd.ZstdError) as error:
        raise DamagedBodyError(
            f"{place} is damaged, or was moved there from another row; restore it from a backup"
        ) from error
    if not decompressor.eof:
        raise DamagedBodyError(f"{place} is longer than {MAX_TEXT_BYTES} bytes (MAX_TEXT_BYTES)")
    return text


def _bound(key_id: str, place: str) -> bytes:
    return f"{key_id}\0{place}".encode("utf-8", "surrogatepass")
