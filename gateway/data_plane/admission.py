"""May this request come in? Key, type and size are looked at before the body is read."""

from __future__ import annotations

from urllib.parse import urlsplit

from gateway.config.check import is_loopback
from gateway.data_plane import errors
from gateway.data_plane.auth import ANYONE, Client
from gateway.data_plane.headers import OwnHeaders
from gateway.state import Live

_JSON = b"application/json"


def identify(live: Live, own: OwnHeaders) -> Client:
    """Whose request it is.

    Raises ApiError: 401 without a valid key, 403 without scope `infer`, 403 for a web page where no key
    is asked for, which could otherwise spend its visitor's money.
    """
    if live.keys is None:
        if own.origin is not None and not _is_local(own.origin):
            raise errors.not_permitted("Without auth.keys only this machine may call, not a web page.")
        return ANYONE
    client = live.keys.identify(own.authorization)
    if client is None:
        raise errors.invalid_key()
    if not client.may("infer"):
        raise errors.not_permitted("Inference needs a key with scope `infer`.")
    return client


def check_head(own: OwnHeaders, max_bytes: int) -> None:
    """Raise ApiError (413, 415) for a body that need not be read to be refused."""
    if own.content_type != _JSON:
        kind = own.content_type.partition(b";")[0].strip().lower()
        if kind != _JSON and not kind.endswith(b"+json"):
            raise errors.wrong_content_type()
    if own.content_encoding and own.content_encoding.lower() != b"identity":
        raise errors.wrong_content_type()
    if own.content_length is not None and own.content_length > max_bytes:
        raise errors.too_large(max_bytes)


def _is_local(origin: bytes) -> bool:
    return is_loopback(urlsplit(origin.decode("latin-1")).hostname or "")
