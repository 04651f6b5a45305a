"""The official client, told what the configuration says of an upstream and nothing that the environment says.

Importing this imports `openai`, which takes a second: it is imported when a judge that asks is made ready.
"""

from __future__ import annotations

import ssl
from urllib.parse import quote

import openai
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Omit

from gateway.config import Upstream
from gateway.config.secrets import UpstreamSecrets
from judges.errors import JudgeFileError

_PATH = "{path}"


class ModelClients:
    """One model of one upstream: a client for each of its servers, taken in turns."""

    def __init__(self, upstream: Upstream, secrets: UpstreamSecrets, model: str, timeout_s: float) -> None:
        """Raises JudgeFileError for an upstream whose path the client cannot ask."""
        if not upstream.path.endswith(_PATH):
            raise JudgeFileError(
                f"upstream {upstream.name!r}: path {upstream.path!r} goes on after {{path}}, which "
                "judges cannot ask; name another upstream"
            )
        self.upstream = upstream
        self.model = model
        base = upstream.path.removesuffix(_PATH).replace("{model}", quote(model, safe="")).rstrip("/")
        http = DefaultAsyncHttpxClient(
            trust_env=False,  # a proxy is one that the configuration names
            follow_redirects=False,  # the key and the text go to nobody else
            proxy=_proxy(upstream, secrets),
            verify=_verification(upstream),
            timeout=openai.Timeout(timeout_s, connect=upstream.timeouts.connect_s),
        )
        self._clients = [
            AsyncOpenAI(
                base_url=f"{server}{base}",
                api_key=secrets.key or "none",
                default_headers=_headers(upstream, secrets),
                default_query={query.name: query.value for query in upstream.query},
                http_client=http,
                max_retries=0,
            )
            for server in upstream.servers
        ]
        self._turn = 0
        bearer = secrets.key is not None and upstream.auth_header.lower() == "authorization"
        told = bearer or any(name == "authorization" for name, _ in secrets.headers)
        # Without a key of ours the client wants to be told with each call that there is none.
        self.extra_headers: dict[str, str | Omit] = {} if told else {"Authorization": Omit()}

    def next(self) -> AsyncOpenAI:
        """The client of the server whose turn it is: a call that failed goes on to another."""
        self._turn = (self._turn + 1) % len(self._clients)
        return self._clients[self._turn]

    async def close(self) -> None:
        await self._clients[0].close()  # they share one pool of connections


def _headers(upstream: Upstream, secrets: UpstreamSecrets) -> dict[str, str]:
    """Those of every request; what the client would take from its environment is left out by name."""
    headers: dict[str, str | Omit] = {
        "OpenAI-Organization": Omit(),
        "OpenAI-Project": Omit(),
        "Authorization": Omit(),
    }
    names = {name.lower(): name for name in headers}
    told = list(secrets.headers)
    if secrets.key is not None:
        bearer = upstream.auth_header.lower() == "authorization"
        told.append((upstream.auth_header, f"Bearer {secrets.key}" if bearer else secrets.key))
    for name, value in told:
        headers[names.get(name.lower(), name)] = value
    return headers  # type: ignore[return-value] # the client takes Omit here, and says str


def _verification(upstream: Upstream) -> ssl.SSLContext:
    """The machine's certificates, which take a while to read, where any are asked for."""
    urls = [*upstream.servers, *([upstream.proxy] if upstream.proxy is not None else [])]
    if any(url.startswith("https:") for url in urls):
        return ssl.create_default_context()
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _proxy(upstream: Upstream, secrets: UpstreamSecrets) -> str | None:
    if upstream.proxy is None or secrets.proxy_auth is None:
        return upstream.proxy
    user, _, password = secrets.proxy_auth.partition(":")
    scheme, _, rest = upstream.proxy.partition("://")
    return f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{rest}"
