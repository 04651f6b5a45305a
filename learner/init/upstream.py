"""Which upstream answers, and which key goes there. Pure.

A key belongs to one scheme, host and port; sent anywhere else it is a leaked key. So it goes to another URL
only where a person names the variable for that URL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from gateway.config import Upstream
from gateway.errors import UsageError
from learner.init.machine import PROVIDERS, Provider

# A server of one's own, as vLLM and others start it, when there is neither a key nor a model to run.
NO_KEY = Provider(
    name="upstream", key_env="", base_url="http://127.0.0.1:8000/v1", model="default", prices=None
)
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


def upstream_at(url: str, found: Provider | None, key_env: str | None = None) -> Provider:
    """The upstream at *url*, with the key in *key_env*, else the one known to belong there, else none."""
    home = next((known for known in _known(found) if _origin(known.base_url) == _origin(url)), None)
    if home is None:
        model = found.model if found else NO_KEY.model
        return msgspec.structs.replace(NO_KEY, base_url=url, model=model, key_env=key_env or "")
    if home.base_url.rstrip("/") != url.rstrip("/"):
        home = msgspec.structs.replace(home, name="upstream", base_url=url, prices=None)
    return msgspec.structs.replace(home, key_env=key_env or home.key_env)


def upstream_of(key_env: str, found: Provider | None) -> Provider | None:
    """The upstream that the key in *key_env* belongs to, where its name says so."""
    return next((known for known in _known(found) if known.key_env == key_env), None)


def with_model(provider: Provider, model: str) -> Provider:
    """*provider* with another model, whose prices we do not know."""
    if model == provider.model:
        return provider
    return msgspec.structs.replace(provider, model=model, prices=None)


def host_of(url: str) -> str:
    """The host of *url*, for a question; nothing else of it, since a secret may stand there."""
    origin = _origin(url)
    return origin[1] if origin else "that upstream"


def upstream_url(text: str) -> str:
    """*text* as the URL of an upstream. Raises UsageError when the configuration would refuse it."""
    try:
        Upstream(name="upstream", base_url=text)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return text


def variable_name(text: str, environ: Mapping[str, str]) -> str:
    """*text* as the name of an environment variable; empty stays empty.

    Raises UsageError, without *text*, when it is none: people paste the key itself.
    """
    if text and text not in environ and not _VARIABLE.fullmatch(text):
        raise UsageError("give the name of the environment variable that holds the key, not the key itself")
    return text


def _known(found: Provider | None) -> list[Provider]:
    """*found* first: where the environment sends a key elsewhere, its usual home is not one any more."""
    others = [known for known in PROVIDERS if found is None or known.key_env != found.key_env]
    return [*([found] if found else []), *others]


def _origin(url: str) -> tuple[str, str, int | None] | None:
    """Scheme, host and port; None for what is no URL."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None
    return (parts.scheme, parts.hostname, port) if parts.hostname else None
