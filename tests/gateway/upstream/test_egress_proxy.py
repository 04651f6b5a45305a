"""Through an egress proxy: forwarded or tunnelled, and the proxy's credentials go nowhere else."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.config.load import load_config
from gateway.probes import check_reachable
from tests.support.proxy import EgressProxy
from tests.support.request_path import RunningGateway, chat, config_for, post_chat, running_gateway
from tests.support.upstream import ScriptedUpstream, completion, hangs, stream_events, streams_events
from tests.support.upstream_http2 import Http2Upstream, http2_tls

CERTIFICATE = Path(__file__).parents[2] / "support" / "tls" / "this_host.pem"
CREDENTIALS = "me:sk:planted"
ENVIRON = {"PROXY_AUTH": CREDENTIALS, "KEY": "sk-upstream"}


def server_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))


@pytest.fixture(params=["forwarded", "tunnelled", "tunnelled http2"])
def upstream(request: pytest.FixtureRequest) -> Iterator[ScriptedUpstream]:
    kinds = {
        "forwarded": ScriptedUpstream,
        "tunnelled": lambda: ScriptedUpstream(tls=server_tls()),
        "tunnelled http2": lambda: Http2Upstream(tls=http2_tls(CERTIFICATE)),
    }
    with kinds[request.param]() as scripted:
        yield scripted


def through(proxy: EgressProxy, upstream: ScriptedUpstream, **more: Any) -> dict[str, Any]:
    return config_for(
        upstream.base_url,
        transport="httpx",
        proxy=proxy.url,
        api_key={"env": "KEY"},
        http2=isinstance(upstream, Http2Upstream),
        retries={"max": 0},
        **more,
    )


def ask(gateway: RunningGateway, **fields: Any) -> httpx.Response:
    url = f"{gateway.base_url}/chat/completions?api-version=2"
    return httpx.post(url, json=chat(**fields), timeout=10, trust_env=False)


def test_answers_come_through_the_proxy_and_secrets_stay_where_they_belong(
    upstream: ScriptedUpstream, tmp_path: Path
):
    tunnelled = upstream.base_url.startswith("https")
    with EgressProxy(auth=CREDENTIALS) as proxy:
        config = through(proxy, upstream, proxy_auth={"env": "PROXY_AUTH"})
        with running_gateway(tmp_path, config, ENVIRON) as gateway:
            assert ask(gateway).json() == completion()
            gateway.wait_idle(1)
            upstream.default = streams_events(stream_events(["a", "b"]))
            answer = ask(gateway, stream=True)
            records = gateway.records(2)

    assert answer.content == b"".join(stream_events(["a", "b"]))
    assert all(got.target.endswith("/v1/chat/completions?api-version=2") for got in upstream.received)
    assert len(proxy.asked) == upstream.connections == 1, "the connection is used again"
    first = proxy.asked[0]
    host = f"127.0.0.1:{upstream.port}"
    assert first.startswith(
        f"CONNECT {host} " if tunnelled else f"POST http://{host}/v1/chat/completions?api-"
    )
    assert ("sk-upstream" in first) is not tunnelled, "a proxy of plain HTTP sees all that is sent"
    for received in upstream.received:
        assert received.header("authorization") == "Bearer sk-upstream"
    planted = ("sk:planted", base64.b64encode(CREDENTIALS.encode()).decode())
    for record in records:
        seen = f"{record.meta!r}{record.request!r}{record.response!r}{answer.headers}"
        assert not any(secret in seen for secret in planted)
    if tunnelled:
        assert all(received.header("proxy-authorization") is None for received in upstream.received)


def test_a_client_that_leaves_cancels_the_upstream_behind_the_proxy(
    upstream: ScriptedUpstream, tmp_path: Path
):
    upstream.default = hangs()
    with (
        EgressProxy() as proxy,
        running_gateway(tmp_path, through(proxy, upstream), ENVIRON) as gateway,
    ):
        connection = gateway.connect()
        connection.sendall(post_chat())
        received = upstream.wait_received()
        connection.close()

        assert received.disconnected.wait(2)
        assert gateway.trace().outcome == "client_cancelled"


def test_a_proxy_that_refuses_is_a_connect_error_or_its_own_answer(
    upstream: ScriptedUpstream, tmp_path: Path
):
    with EgressProxy(auth="another:one") as proxy:
        config = through(proxy, upstream, proxy_auth={"env": "PROXY_AUTH"})
        with running_gateway(tmp_path, config, ENVIRON) as gateway:
            answer = ask(gateway)
            attempt = gateway.trace().attempts[0]

    assert upstream.received == []
    assert "sk:planted" not in answer.text
    if upstream.base_url.startswith("https"):
        assert (answer.status_code, attempt.error) == (502, "connect")
        assert "its proxy answered 407" in answer.json()["error"]["message"]
    else:
        assert (answer.status_code, attempt.error) == (407, "status_4xx")


def test_a_proxy_that_hangs_runs_into_the_connect_deadline(tmp_path: Path):
    with ScriptedUpstream(tls=server_tls()) as upstream, EgressProxy(hangs=True) as proxy:
        timeouts = {"connect_s": 0.5, "headers_s": 5}
        config = through(proxy, upstream, timeouts=timeouts)
        with running_gateway(tmp_path, config, ENVIRON) as gateway:
            assert ask(gateway).status_code == 504
            assert gateway.trace().attempts[0].error == "connect_timeout"


def test_a_proxy_is_spoken_to_over_tls_where_its_url_says_so(upstream: ScriptedUpstream, tmp_path: Path):
    with EgressProxy(tls=server_tls()) as proxy:
        with running_gateway(tmp_path, through(proxy, upstream), ENVIRON) as gateway:
            assert ask(gateway).json() == completion()
        assert len(proxy.asked) == 1


def test_check_asks_through_the_proxy_too(upstream: ScriptedUpstream, tmp_path: Path):
    with EgressProxy(auth=CREDENTIALS) as proxy:
        path = tmp_path / "tracetune.yaml"
        path.write_text(json.dumps(through(proxy, upstream, proxy_auth={"env": "PROXY_AUTH"})))
        found = [each for each in check_reachable(load_config(path), ENVIRON) if "upstream" in each.what]

    assert [finding.state for finding in found] == ["ok"], found
    assert upstream.received[0].target == "/v1/models"
    assert len(proxy.asked) == 1
