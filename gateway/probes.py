"""What a configuration meets when it is tried: upstreams, the store, the ports. Each probe is bounded."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import msgspec

from gateway.checks import Finding, failed, passed, skipped
from gateway.config.secrets import read_upstream_secrets
from gateway.config.types import AdminListen, Config, Listen, Upstream
from gateway.control.client import sendable
from gateway.errors import ConfigError, StoreUnreachableError, TracetuneError
from gateway.listening import listening, local_url
from gateway.traces.store import Store
from gateway.upstream.address import Address
from gateway.upstream.httpx_transport import options, proxy_of
from gateway.upstream.request_head import RequestHead
from gateway.upstream.secret_mask import SecretMask

PROBE_S = 3.0  # for one upstream server to list its models
MAX_MODELS_BYTES = 4 << 20  # of that list
_PARALLEL = 16


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


def check_ports(config: Config) -> Iterator[Finding]:
    """The addresses to listen on are free, or a gateway of ours has them already."""
    yield _port("listen", config.listen)
    if config.admin_listen is not None:
        yield _port("admin_listen", config.admin_listen)


def check_reachable(config: Config, environ: Mapping[str, str]) -> Iterator[Finding]:
    """The store and every server of every upstream. Takes PROBE_S and a little, however many there are."""
    probes: list[Callable[[], Finding]] = [lambda: _store(config, environ)]
    probes += [
        partial(_upstream, config, upstream, server, f"$.upstreams[{index}]", environ)
        for index, upstream in enumerate(config.upstreams)
        for server in upstream.servers
    ]
    with ThreadPoolExecutor(_PARALLEL) as pool:
        yield from pool.map(lambda probe: probe(), probes)


def _port(section: str, listen: Listen | AdminListen) -> Finding:
    what = f"{section} {listen.host}:{listen.port}"
    try:
        listening(listen.host, listen.port).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            if _is_ours(listen):
                return passed(what, "a tracetune gateway listens there")
            return failed(what, f"in use by something else; stop it, or set {section}.port")
        return failed(what, f"cannot be listened on: {error.strerror}; correct {section}.host")
    return passed(what, "free")


def _is_ours(listen: Listen | AdminListen) -> bool:
    url = local_url(listen.host, listen.port)
    try:
        answer = httpx.get(f"{url}/readyz", timeout=PROBE_S, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return b'"table_hash"' in answer.content


def _store(config: Config, environ: Mapping[str, str]) -> Finding:
    try:
        with Store.connect(config, environ) as store:
            answered = store.ping()
    except StoreUnreachableError as error:
        if config.store.embedded:
            return skipped("store", "embedded and not running; `tracetune up` starts it")
        return failed("store", str(error))
    except TracetuneError as error:
        return failed("store", str(error), error.exit_code)
    return passed("store", "answers") if answered else failed("store", "does not answer; look at store.url")


def _upstream(
    config: Config, upstream: Upstream, server: str, place: str, environ: Mapping[str, str]
) -> Finding:
    what = f"upstream {upstream.name} {server}"
    try:
        secrets = read_upstream_secrets(upstream, environ, place)
    except ConfigError:
        return skipped(what, "a secret of it is missing")
    headers = RequestHead(upstream, secrets).fields
    unsendable = next((name for name, value in headers.items() if not sendable(value)), None)
    if unsendable is not None:
        return failed(what, f"{unsendable} has characters that no header can carry; correct its secret")
    query = httpx.QueryParams([(parameter.name, parameter.value) for parameter in upstream.query])
    try:
        proxy = proxy_of(upstream, secrets)
        transport = httpx.HTTPTransport(**options(Address(server), proxy, http2=upstream.http2))
        status, content = _fetch(transport, f"{server}/models", headers, query)
    except (httpx.HTTPError, httpx.InvalidURL, ConfigError) as error:
        if upstream.managed is not None:
            return skipped(what, "not running; `tracetune up` starts it")
        # An answer that is not HTTP is repeated in the error, and with it what the server quotes.
        said = SecretMask.of(upstream, secrets).whole(str(error).encode()).decode()
        reason = "no answer in time" if isinstance(error, httpx.TimeoutException) else said
        return failed(what, f"cannot be reached: {reason}; correct base_url, or start it")
    refusal = _refusal(status)
    if refusal is not None:
        return failed(what, refusal)
    return _models(config, upstream, what, content if status < 400 else b"")


def _refusal(status: int) -> str | None:
    if status in {401, 403}:
        return f"refuses the key ({status}); correct api_key"
    return f"answers {status} to GET /models; look at its log" if status >= 500 else None


def _models(config: Config, upstream: Upstream, what: str, content: bytes) -> Finding:
    """Whether the models that a person wrote are listed; snapshots are loaded while the learner runs."""
    try:
        listed = {model.id for model in msgspec.json.decode(content, type=_Models).data}
    except msgspec.DecodeError:
        return passed(what, "answers, and lists no models")
    wanted = {
        variant.model
        for route in config.routes
        for variant in route.variants
        if variant.upstream == upstream.name and variant.model is not None
    }
    missing = sorted(wanted - listed)
    if missing and listed:
        return failed(what, f"lists no model {missing[0]!r}; correct the variant's model")
    return passed(what, f"answers, {len(listed)} models")


def _fetch(
    transport: httpx.HTTPTransport, url: str, headers: Mapping[str, str], query: httpx.QueryParams
) -> tuple[int, bytes]:
    """Status and body, at most MAX_MODELS_BYTES of it. Raises httpx.HTTPError, also after PROBE_S in all."""
    deadline = time.monotonic() + PROBE_S
    with (
        httpx.Client(timeout=PROBE_S, trust_env=False, transport=transport) as client,
        client.stream("GET", url, headers=headers, params=query) as response,
    ):
        content = b""
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > MAX_MODELS_BYTES:
                break
            if time.monotonic() > deadline:
                raise httpx.ReadTimeout("the list of models did not end in time")
        return response.status_code, content
