"""Reads secrets where the configuration says they are. Values never enter a message."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from gateway.config.types import Config, Secret, Upstream
from gateway.errors import ConfigError


class UpstreamSecrets(msgspec.Struct, frozen=True, kw_only=True):
    """What one upstream is told: our key, and its fixed headers with secret values filled in.

    `proxy_auth` is `USER:PASSWORD`, for its egress proxy.
    """

    key: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    proxy_auth: str | None = None

    def __repr__(self) -> str:
        return "UpstreamSecrets(…)"


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """The secrets in use. `repr` shows none of them."""

    upstreams: dict[str, UpstreamSecrets]  # by upstream name
    client_keys: dict[str, str]  # by client name
    admin_key: str | None
    store_password: str | None

    def __repr__(self) -> str:
        return "Secrets(…)"


def read_secrets(config: Config, environ: Mapping[str, str], origin: Path | None = None) -> Secrets:
    """Read every secret in use.

    Raises ConfigError naming *origin*, which asks for them, the missing variable or file, and its place.
    """
    try:
        return _read_secrets(config, environ)
    except ConfigError as error:
        if origin is None:
            raise
        raise ConfigError(f"{origin}: {error}") from error


def _read_secrets(config: Config, environ: Mapping[str, str]) -> Secrets:
    master = config.privacy.master_key
    if config.privacy.encrypt != "none" and master is not None and master.command is None:
        # Kept nowhere here: only what encrypts and decrypts has it in its memory.
        read_secret(Secret(env=master.env, file=master.file), environ, "$.privacy.master_key")
    return Secrets(
        upstreams={
            upstream.name: read_upstream_secrets(upstream, environ, f"$.upstreams[{index}]")
            for index, upstream in enumerate(config.upstreams)
        },
        client_keys=_client_keys(config, environ),
        admin_key=environ.get("TRACETUNE_ADMIN_KEY") or None,
        store_password=None
        if config.store.embedded or config.store.password is None
        else read_secret(config.store.password, environ, "$.store.password"),
    )


def secret_files(config: Config) -> list[Path]:
    """The files whose content a running gateway uses, in the order of the configuration.

    Not that of the store's password, which a process reads when it starts.
    """
    used = [entry.key for entry in config.auth.keys] if config.auth else []
    for upstream in config.upstreams:
        told = (upstream.api_key, upstream.proxy_auth, *(header.secret for header in upstream.headers))
        used += [secret for secret in told if secret is not None]
    return [secret.file for secret in used if secret.file is not None]


def read_upstream_secrets(upstream: Upstream, environ: Mapping[str, str], place: str) -> UpstreamSecrets:
    """The secrets of one upstream at *place* of the file. Raises ConfigError as `read_secret` does."""
    headers: list[tuple[str, str]] = []
    for index, header in enumerate(upstream.headers):
        value = header.value
        if header.secret is not None:
            value = read_secret(header.secret, environ, f"{place}.headers[{index}].secret")
        headers.append((header.name.lower(), value or ""))
    key = read_secret(upstream.api_key, environ, f"{place}.api_key") if upstream.api_key else None
    proxy_auth = (
        read_secret(upstream.proxy_auth, environ, f"{place}.proxy_auth") if upstream.proxy_auth else None
    )
    if proxy_auth is not None and ":" not in proxy_auth:
        raise ConfigError(
            f"the credentials of a proxy are USER:PASSWORD, and these are not - at `{place}.proxy_auth`"
        )
    return UpstreamSecrets(key=key, headers=tuple(headers), proxy_auth=proxy_auth)


def _client_keys(config: Config, environ: Mapping[str, str]) -> dict[str, str]:
    """Keys by client. Raises ConfigError for two clients of one key: nobody could tell them apart."""
    keys: dict[str, str] = {}
    for index, entry in enumerate(config.auth.keys if config.auth else []):
        place = f"$.auth.keys[{index}].key"
        key = read_secret(entry.key, environ, place)
        for other, taken in keys.items():
            if taken == key:
                raise ConfigError(
                    f"clients {other!r} and {entry.name!r} have the same key; give each one - at `{place}`"
                )
        keys[entry.name] = key
    return keys


def read_secret(secret: Secret, environ: Mapping[str, str], place: str) -> str:
    """The secret's value, stripped. Raises ConfigError when it is missing or empty."""
    if secret.env is not None:
        value = environ.get(secret.env, "").strip()
        if not value:
            raise ConfigError(f"environment variable {secret.env} is not set; export it - at `{place}`")
        return value
    assert secret.file is not None
    try:
        value = secret.file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"secret file {secret.file} cannot be read: {error} - at `{place}`") from error
    if not value:
        raise ConfigError(f"secret file {secret.file} is empty - at `{place}`")
    return value
