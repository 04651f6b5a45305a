"""A server may answer before it has the whole of a request. Its answer counts, whatever becomes of the rest.

That uploads which are passed through end then is in `test_passthrough.py`.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.proxy import EgressProxy
from tests.support.request_path import RunningGateway, chat, config_for, running_gateway
from tests.support.upstream import ScriptedUpstream, completion

pytestmark = pytest.mark.transports("native", "httpx")
CERTIFICATE = Path(__file__).parents[2] / "support" / "tls" / "this_host.pem"
SAID = b'{"error": {"message": "too much", "type": "scripted"}}'
MANY = "x" * 8_000_000  # more than any buffer on the way
TRIES = 5
HEADERS_S = 5.0
STAYS_S = 8.0  # so that an answer that is not heard while it stays is a 504


def early(status: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status, len(SAID), SAID)


def server_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def answer_early(connection: socket.socket, answer: bytes) -> None:
    """Read the beginning, answer, and close with the rest unread, which resets the connection."""
    connection.recv(1000)
    connection.sendall(answer)


def answer_and_stay(connection: socket.socket, answer: bytes) -> None:
    """Read the beginning, answer, read nothing more, and leave the closing to the other side."""
    answer_early(connection, answer)
    threading.Event().wait(STAYS_S)


def answer_and_linger(connection: socket.socket, answer: bytes) -> None:
    """Read the beginning, answer, end, and take the rest for as long as it comes, as nginx does."""
    answer_early(connection, answer)
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass


@contextlib.contextmanager
def serving(
    serve: Callable[[socket.socket, bytes], None], answer: bytes, tls: ssl.SSLContext | None
) -> Iterator[str]:
    """The base URL of a server that has *serve* take each connection, in a thread of its own."""

    def take(connection: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            tls.wrap_socket(connection, server_side=True) if tls else connection as stream,
        ):
            serve(stream, answer)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=take, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}/v1"
        listener.shutdown(socket.SHUT_RDWR)


def ask(gateway: RunningGateway) -> httpx.Response:
    return httpx.post(f"{gateway.base_url}/chat/completions", json=chat(extra=MANY), timeout=20)


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("serve", [answer_early, answer_and_stay, answer_and_linger])
def test_a_refusal_is_heard_though_the_request_was_not_taken(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[[socket.socket, bytes], None],
    tls: bool,
):
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with serving(serve, early(b"413 Too Large"), server_tls() if tls else None) as base_url:
        timeouts = {"headers_s": HEADERS_S, "total_s": 10}
        with running_gateway(tmp_path, config_for(base_url, timeouts=timeouts)) as gateway:
            answers = [ask(gateway) for _ in range(TRIES)]
            traces = gateway.traces(TRIES)

    assert [answer.status_code for answer in answers] == [413] * TRIES
    assert {answer.content for answer in answers} == {SAID}
    assert [[attempt.error for attempt in trace.attempts] for trace in traces] == [["status_4xx"]] * TRIES


def test_a_refusal_that_passes_moves_to_a_fallback(upstream: ScriptedUpstream, tmp_path: Path):
    with serving(answer_early, early(b"401 No"), None) as base_url:
        config = config_for(base_url)
        config["upstreams"].append({"name": "other", "base_url": upstream.base_url})
        config["routes"][0]["fallbacks"] = [{"upstream": "other", "model": "m"}]
        with running_gateway(tmp_path, config) as gateway:
            assert ask(gateway).json() == completion()
            assert [attempt.error for attempt in gateway.trace().attempts] == ["status_4xx", None]


def test_a_large_request_over_tls_is_sent_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What a TLS server says of the connection itself, tickets for one, is no answer."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with (
        ScriptedUpstream(tls=server_tls()) as upstream,
        running_gateway(tmp_path, config_for(upstream.base_url)) as gateway,
    ):
        for _ in range(2):
            assert ask(gateway).json() == completion()
            gateway.wait_idle(1)

        assert [received.json()["extra"] == MANY for received in upstream.received] == [True, True]
        assert upstream.connections == 1


@pytest.mark.transports("httpx")  # alone takes a proxy
@pytest.mark.parametrize("tls", [False, True], ids=["forwarded", "tunnelled"])
@pytest.mark.parametrize("proxy_tls", [False, True], ids=["proxy", "proxy over tls"])
def test_a_refusal_is_heard_through_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy_tls: bool, tls: bool
):
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with (
        EgressProxy(tls=server_tls() if proxy_tls else None) as proxy,
        serving(answer_and_stay, early(b"413 Too Large"), server_tls() if tls else None) as base_url,
    ):
        config = config_for(base_url, proxy=proxy.url, timeouts={"headers_s": HEADERS_S, "total_s": 10})
        with running_gateway(tmp_path, config) as gateway:
            answer = ask(gateway)

    assert (answer.status_code, answer.content) == (413, SAID)
    assert proxy.asked[0].startswith("CONNECT " if tls else "POST ")
