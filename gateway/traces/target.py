"""Which server a store's configuration means: host, database, credentials, read at each connection."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from gateway.config.secrets import read_secret
from gateway.config.types import Config
from gateway.errors import StoreUnreachableError
from gateway.paths import Paths, paths_of
from gateway.traces.endpoint import read_endpoint, read_token

EMBEDDED_DATABASE = "tracetune"
EMBEDDED_USER = "tracetune"
START_IT = "start it with `tracetune up`"


class _Process(msgspec.Struct):
    name: str


class _Processes(msgspec.Struct):
    """What is asked of the supervisor's list."""

    supervisor: int
    processes: list[_Process]


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A ClickHouse HTTP interface and how to log in there. `repr` shows no password."""

    interface: str
    host: str
    port: int
    user: str
    password: str
    database: str
    embedded: bool
    remedy: str  # where it does not answer

    @property
    def place(self) -> str:
        return f"{self.host}:{self.port}"

    def hide(self, text: str) -> str:
        """*text*, which a server wrote, without the password that it was told and may quote."""
        if not self.password:
            return text
        login = f"{self.user}:{self.password}".encode()
        return text.replace(b64encode(login).decode(), "…").replace(self.password, "…")

    def __repr__(self) -> str:
        return f"Target({self.interface}://{self.user}@{self.place}/{self.database})"


def resolve_target(config: Config, environ: Mapping[str, str]) -> Target:
    """The target of *config* as it is now: the embedded store may come back on another port.

    Raises StoreUnreachableError where no embedded store runs, ConfigError for a missing secret.
    """
    if config.store.embedded:
        directory = paths_of(config).store
        endpoint = read_endpoint(directory)
        try:
            token = read_token(directory)
        except OSError:
            endpoint = None
        if endpoint is None:
            raise StoreUnreachableError(
                f"the embedded store in {directory} does not run; {_remedy(paths_of(config))}"
            )
        return embedded_target(endpoint.url, token, remedy=_remedy(paths_of(config)))
    parts = urlsplit(config.store.url)
    https = parts.scheme == "clickhouse+https"
    password = config.store.password
    return Target(
        interface="https" if https else "http",
        host=parts.hostname or "localhost",
        port=parts.port or (8443 if https else 8123),
        user=unquote(parts.username or "default"),
        password=read_secret(password, environ, "$.store.password") if password else "",
        database=unquote(parts.path.strip("/")) or "default",
        embedded=False,
        remedy="check store.url and the network",
    )


def embedded_target(url: str, token: str, *, remedy: str = START_IT) -> Target:
    """The embedded store at *url*."""
    parts = urlsplit(url)
    return Target(
        interface="http",
        host=parts.hostname or "127.0.0.1",
        port=parts.port or 0,
        user=EMBEDDED_USER,
        password=token,
        database=EMBEDDED_DATABASE,
        embedded=True,
        remedy=remedy,
    )


def _remedy(paths: Paths) -> str:
    """What to do about a store that does not run: under `tracetune up` it comes back by itself."""
    try:
        listed = msgspec.json.decode((paths.state / "processes.json").read_bytes(), type=_Processes)
    except (OSError, msgspec.DecodeError):
        return START_IT
    supervised = any(process.name == "store" for process in listed.processes)
    if not (supervised and Path(f"/proc/{listed.supervisor}").exists()):
        return START_IT
    return f"`tracetune up` starts it again; {paths.data / 'logs' / 'store.log'} says why it ended"
