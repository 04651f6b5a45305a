"""`transport: httpx` adds nothing, follows nothing, keeps our deadlines and leaves when it is told to.

That it answers as our own client does is shown in `data_plane/`, by what is marked `transports`.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h11
import httpcore
import httpx
import pytest
import yaml

from gateway.upstream.errors import ConnectError, DisconnectedError, ProtocolError
from gateway.upstream.httpx_errors import upstream_error
from tests.support.request_path import (
    RunningGateway,
    chat,
    config_for,
    post_bytes,
    post_chat,
    running_gateway,
    wait_until,
)
from tests.support.upstream import (
    Received,
    Reply,
    ScriptedUpstream,
    answers,
    answers_status,
    completion,
    hangs,
    never_connecting,
    sends,
)

TIMEOUTS = {"connect_s": 0.5, "headers_s": 5, "total_s": 8}


def over_httpx(base_url: str, **upstream: Any) -> dict[str, Any]:
    return config_for(base_url, **{"transport": "httpx", "timeouts": TIMEOUTS, **upstream})


def ask(gateway: RunningGateway) -> httpx.Response:
    return httpx.post(f"{gateway.base_url}/chat/completions", json=chat(), timeout=10, trust_env=False)


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as scripted:
        yield scripted


@pytest.fixture
def gateway(upstream: ScriptedUpstream, tmp_path: Path) -> Iterator[RunningGateway]:
    with running_gateway(tmp_path, over_httpx(upstream.base_url)) as running:
        yield running


def test_it_sends_what_our_own_client_sends_and_nothing_else(upstream: ScriptedUpstream, tmp_path: Path):
    request = post_bytes(
        b'{"model":"bot","messages":[]}',
        "/v1/chat/completions?a=%7e&b=\"<'|>{}&a=%zz+",
        "X-New: 1",
        "x-new: 2",
        "x-odd: \xe9\t,",
        "x-empty:",
        "accept: text/x",
    )
    for transport in ("native", "httpx"):
        folder = tmp_path / transport
        folder.mkdir()
        config = config_for(upstream.base_url, transport=transport, api_key={"env": "KEY"})
        with running_gateway(folder, config, {"KEY": "k"}) as gateway, gateway.connect() as connection:
            connection.sendall(request)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    native, through = upstream.received

    assert (through.method, through.target) == (native.method, native.target)
    assert through.headers == native.headers
    assert through.body == native.body


def test_a_redirect_is_the_clients_to_follow(gateway: RunningGateway, upstream: ScriptedUpstream):
    upstream.then(answers_status(307, {"moved": True}, ("location", upstream.base_url)))

    answer = ask(gateway)
    assert (answer.status_code, answer.headers["location"]) == (307, upstream.base_url)
    assert len(upstream.received) == 1


def test_a_cookie_is_not_kept(gateway: RunningGateway, upstream: ScriptedUpstream):
    upstream.default = answers("hello", ("set-cookie", "who=me"))
    for _ in range(2):
        assert "set-cookie" not in ask(gateway).headers
        gateway.wait_idle(1)

    assert upstream.received[1].header("cookie") is None
    assert upstream.connections == 1


def test_nothing_is_taken_from_the_environment(
    upstream: ScriptedUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with running_gateway(tmp_path, over_httpx(upstream.base_url)) as gateway:
        assert ask(gateway).status_code == 200

    assert upstream.received[0].header("authorization") is None


def test_a_connection_that_is_not_made_in_time_runs_into_the_connect_deadline(tmp_path: Path):
    with never_connecting() as base_url:
        config = over_httpx(base_url, retries={"max": 0})
        with running_gateway(tmp_path, config) as gateway:
            answer = ask(gateway)
            trace = gateway.trace()

    assert answer.status_code == 504
    assert [attempt.error for attempt in trace.attempts] == ["connect_timeout"]
    assert 500 <= trace.attempts[0].ended_ms < 1500


def test_a_tls_handshake_that_stops_halfway_runs_into_the_same_and_is_closed(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(5)
        config = over_httpx(f"https://127.0.0.1:{silent.getsockname()[1]}/v1", retries={"max": 0})
        with running_gateway(tmp_path, config) as gateway:
            answer = ask(gateway)
            connection = silent.accept()[0]
            connection.settimeout(2)
            while connection.recv(65536):  # the client's hello, then the end
                pass

            assert answer.status_code == 504
            assert gateway.trace().attempts[0].error == "connect_timeout"
        connection.close()


def test_the_deadlines_after_it_begin_when_the_request_is_sent(upstream: ScriptedUpstream, tmp_path: Path):
    upstream.default = hangs()
    config = over_httpx(upstream.base_url, timeouts={"connect_s": 5, "headers_s": 0.4, "total_s": 8})
    with running_gateway(tmp_path, config) as gateway:
        assert ask(gateway).status_code == 504
        assert gateway.trace().attempts[0].error == "headers_timeout"
    assert upstream.received[0].disconnected.wait(2)


def test_idle_connections_are_closed_when_the_settings_change_and_busy_ones_after_their_request(
    gateway: RunningGateway, upstream: ScriptedUpstream
):
    async def slow(received: Received, reply: Reply) -> None:
        await reply.pause(1.5)
        await answers()(received, reply)

    assert ask(gateway).status_code == 200
    former = gateway.state.live
    upstream.then(slow)
    with gateway.connect() as busy, gateway.connect() as idle:
        busy.sendall(post_chat())
        upstream.wait_received(2)
        idle.sendall(post_chat())
        idle.recv(65536)
        assert len(upstream._writers) == 2
        config = yaml.safe_load(gateway.state.config_path.read_text())
        config["upstreams"][0]["timeouts"]["idle_s"] = 17
        gateway.state.config_path.write_text(yaml.safe_dump(config))

        wait_until(lambda: gateway.state.live is not former)
        wait_until(lambda: len(upstream._writers) == 1)
        assert busy.recv(65536).startswith(b"HTTP/1.1 200")
    wait_until(lambda: not upstream._writers)


def test_a_server_that_closes_between_two_requests_costs_no_attempt(
    gateway: RunningGateway, upstream: ScriptedUpstream
):
    ask(gateway)
    upstream.then(sends(b""))  # on the connection that is used again

    assert ask(gateway).json() == completion()
    assert len(gateway.traces(2)[1].attempts) == 1


# --- errors


def from_h11(words: str) -> httpx.RemoteProtocolError:
    """As httpx raises what h11 found."""
    error = httpx.RemoteProtocolError(words)
    error.__cause__ = httpcore.RemoteProtocolError(h11.RemoteProtocolError(words))
    return error


PLANTED = "sk-planted"


@pytest.mark.parametrize(
    ("error", "connected", "expected"),
    [
        (httpx.ConnectError("refused"), False, ConnectError),
        (httpx.ReadError("reset"), False, ConnectError),
        (httpx.ReadError("reset"), True, DisconnectedError),
        (httpx.WriteError("reset"), True, DisconnectedError),
        (httpx.ProxyError(f"407 {PLANTED}"), False, ConnectError),
        (httpx.ProxyError(PLANTED), False, ConnectError),
        (ssl.SSLError(1, f"bad record {PLANTED}"), True, DisconnectedError),
        (httpx.LocalProtocolError(PLANTED), True, ProtocolError),
        (from_h11(f"illegal status line: {PLANTED}"), True, ProtocolError),
        (from_h11("peer closed connection without sending complete message body"), True, DisconnectedError),
        (httpx.RemoteProtocolError("Server disconnected without sending a response."), True, DisconnectedError),
    ],
)  # fmt: skip
def test_an_error_of_httpx_becomes_one_of_ours_that_names_no_content(
    error: Exception, connected: bool, expected: type[Exception]
):
    mapped = upstream_error(error, "up", "http://h/v1", connected=connected)

    assert type(mapped) is expected
    assert mapped.__cause__ is error
    assert "'up'" in str(mapped)
    assert "http://h/v1" in str(mapped)
    assert PLANTED not in str(mapped)


def test_a_bug_is_no_fault_of_the_upstreams():
    assert upstream_error(KeyError("x"), "up", "http://h/v1", connected=True) is None
