"""Nothing that is sent to the embedded store's port makes it crash, hang, or fail without ClickHouse's code."""

from __future__ import annotations

import base64
import random
import socket
import time
from collections.abc import Iterator
from urllib.parse import quote_from_bytes

import pytest

from gateway.config import Config
from gateway.paths import paths_of
from gateway.traces.endpoint import read_endpoint, read_token
from gateway.traces.store import Store

REQUESTS = 300
ANSWER_WITHIN_S = 20.0
_SQL = (
    b"SELECT 1",
    b"SELECT number FROM numbers(3) FORMAT JSONEachRow",
    b"INSERT INTO nowhere FORMAT TSV\n1\n",
    b"INSERT INTO system.one (dummy) VALUES (",
    b"SELECT {x:UInt8}",
    b"SELECT 1 FORMAT",
    b"/* ",
    b"SELECT 'a",
    b"WITH 1 AS x SELECT x; SELECT 2",
    b"SET max_block_size = 1",
    b"",
)
_FIELDS = (
    *(b"query", b"database", b"default_format", b"param_x", b"max_block_size", b"readonly", b"session_id"),
    *(b"wait_end_of_query", b"query_id", b"compress", b"decompress", b"log_comment", b"nonsense"),
)
_HEADERS = (
    *(
        b"content-encoding",
        b"content-type",
        b"x-clickhouse-format",
        b"x-clickhouse-database",
        b"authorization",
    ),
    *(b"x-clickhouse-key", b"expect", b"accept-encoding", b"transfer-encoding", b"content-length"),
)
_VALUES = (
    *(b"", b"0", b"-1", b"1", b"Native", b"\xff\xfe", b"gzip", b"zstd", b"lz4", b"deflate", b"chunked", b"5"),
    *(b"Basic \xe9\xe9", b"Basic x", b"Bearer \xff", b"multipart/form-data", b"100-continue", b"a'b`c\\"),
    *(b"multipart/form-data; boundary=b", b"multipart/form-data; boundary=\xff", b"x" * 5000, b"\x00"),
)
_BODIES = (
    b'--b\r\nContent-Disposition: form-data; name="query"\r\n\r\nSELECT 1\r\n--b--\r\n',
    b"--b\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT '\xff'\r\n--b--\r\n",
    b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\nContent-Disposition: form-data; name=q\r\n\r\n--c\r\n\r\nx",
    b"--b\r\nContent-Disposition: form-data; name=q; filename=f\r\n\r\nx\r\n--b--\r\n",
    b"--b\r\n\r\nx\r\n--b--\r\n",
    b"\x1f\x8b\x08\x00garbage",
    b"\x28\xb5\x2f\xfdgarbage",
    b"\x04\x22\x4d\x18garbage",
    b"5\r\nSELEC\r\n5\r\nT 1 \r\n0\r\n\r\n",
    b"zz\r\n",
)


def requests(chance: random.Random, token: bytes) -> Iterator[bytes]:
    """Requests of which every part may be wrong, and some bytes that are none."""
    while True:
        if chance.random() < 0.05:
            yield chance.randbytes(chance.randrange(1, 200))
            continue
        method = chance.choice([b"POST"] * 6 + [b"GET", b"HEAD", b"PUT", b"OPTIONS", b"get", b"\xff"])
        path = chance.choice([b"/"] * 8 + [b"/ping", b"/play", b"//", b"*", b"/%00%ff"])
        names = chance.choices(_FIELDS, k=chance.randrange(4))
        query = b"&".join(name + b"=" + _field(chance) for name in names)
        if chance.random() < 0.1:
            query += chance.choice([b"%", b"%zz", b"&&=;", b"query", b"\xff", b"#"])
        body = chance.choice([*_SQL, *_SQL, *_BODIES, chance.randbytes(30)])
        headers = [b"host: x", b"authorization: Basic " + base64.b64encode(b"me:" + token)]
        if chance.random() < 0.1:
            headers.pop()
        named = chance.choices(_HEADERS, k=chance.choice([0, 0, 1, 2]))
        headers += [name + b": " + chance.choice(_VALUES) for name in named]
        if not any(header.startswith((b"content-length", b"transfer-encoding")) for header in headers):
            headers.append(b"content-length: %d" % len(body))
        request = method + b" " + path + (b"?" + query if query else b"") + b" HTTP/1.1\r\n"
        request += b"\r\n".join(headers) + b"\r\n\r\n" + body
        if chance.random() < 0.1:
            at = chance.randrange(len(request))
            request = request[:at] + chance.randbytes(1) + request[at + 1 :]
        yield request


def _field(chance: random.Random) -> bytes:
    value = chance.choice([*_SQL, *_VALUES])
    return quote_from_bytes(value).encode() if chance.random() < 0.9 else value.replace(b" ", b"+")


def answer_to(port: int, request: bytes) -> bytes:
    """All that comes back once nothing more is sent. Raises TimeoutError where it does not end."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_WITHIN_S) as connection:
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                received += piece
        except (ConnectionResetError, BrokenPipeError):
            return received
    return received


@pytest.mark.parametrize("seed", [1])
def test_no_request_crashes_it_hangs_or_fails_without_a_code(
    embedded_config: Config, clean_store: Store, seed: int
) -> None:
    directory = paths_of(embedded_config).store
    endpoint = read_endpoint(directory)
    assert endpoint is not None
    port = int(endpoint.url.rpartition(":")[2])
    made = requests(random.Random(seed), read_token(directory).encode())

    for request, _ in zip(made, range(REQUESTS), strict=False):
        answer = answer_to(port, request)
        head = answer.partition(b"\r\n\r\n")[0]
        if head.startswith(b"HTTP/1.1 5"):
            assert b"\r\nx-clickhouse-exception-code: " in head, (request, answer)

    assert clean_store.query("SELECT 1 AS one") == [{"one": 1}]
    deadline = time.monotonic() + ANSWER_WITHIN_S
    while clean_store.query("SELECT count() AS n FROM system.processes") != [{"n": 1}]:
        assert time.monotonic() < deadline, "a statement is left over"
