"""The head of an answer is known again only where a parser would read in it what the memo says."""

from __future__ import annotations

from pathlib import Path

import httptools
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.head_template import Headers
from gateway.upstream.response_memo import LOOK_AGAIN, MAX_HOLES, MAX_MISSES, ResponseHeads
from tests.support.request_path import chat, config_for, running_gateway
from tests.support.upstream import ScriptedUpstream, sends

BODY = b'{"choices": []}'


def answer(body: bytes = BODY, *lines: str, first: str = "HTTP/1.1 200 OK") -> bytes:
    head = [first, *lines, f"content-length: {len(body)}"]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


class Parsed:
    """What httptools makes of one answer."""

    def __init__(self, data: bytes) -> None:
        self.headers: Headers = []
        self.body = b""
        self.whole = False
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(data)
        self.status = self._parser.get_status_code()
        self.keeps_alive = self._parser.should_keep_alive()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.whole = True


def learned(*packets: bytes) -> ResponseHeads:
    heads = ResponseHeads()
    for packet in packets:
        parsed = Parsed(packet)
        heads.learn(packet, parsed.headers, len(parsed.body))
    return heads


DATED = [
    answer(BODY, f"Date: {day}", "Content-Type: application/json", f"x-request-id: {day}") for day in "ab"
]


def test_an_answer_is_known_whatever_its_length_and_what_was_seen_to_differ():
    heads = learned(*DATED)
    packet = answer(b"x" * 5000, "Date: Wed, 25 Nov", "Content-Type: application/json", "x-request-id: 7")

    found = heads.read(packet)

    assert found is not None
    known, body = found
    assert body == b"x" * 5000
    assert known.memo.headers(known.values) == Parsed(packet).headers
    assert known.lines(lambda name: name != b"content-length") == (
        b"date: Wed, 25 Nov\r\ncontent-type: application/json\r\nx-request-id: 7\r\n"
    )


@pytest.mark.parametrize(
    "packet",
    [
        answer(BODY, "Date: c", "Content-Type: text/plain", "x-request-id: c"),
        answer(BODY, "Date: c", "Content-Type: application/json", "x-request-id: c", "connection: close"),
        answer(BODY, "Date: c", "Content-Type: application/json", "x-request-id: c", first="HTTP/1.1 201 OK"),
        answer(BODY, "Date: c", "Content-Type: application/json", "x-request-id: c") + b"x",
        answer(BODY, "Date: c", "Content-Type: application/json", "x-request-id: c")[:-1],
        answer(BODY, "Date: c\r\nx: y", "Content-Type: application/json", "x-request-id: c"),
        answer(BODY, "Date:  c", "Content-Type: application/json", "x-request-id: c"),
        answer(BODY, "Date: c ", "Content-Type: application/json", "x-request-id: c"),
        answer(BODY, "Date: \x01", "Content-Type: application/json", "x-request-id: c"),
        answer(BODY, "Date: ", "Content-Type: application/json", "x-request-id: c"),
        answer(BODY, "Date: " + "c" * 600, "Content-Type: application/json", "x-request-id: c"),
    ],
)
def test_any_other_answer_is_left_to_the_parser(packet: bytes):
    assert learned(*DATED).read(packet) is None


@pytest.mark.parametrize(
    "line",
    [
        "transfer-encoding: chunked",
        "content-encoding: gzip",
        "trailer: x-a",
        "upgrade: h2c",
        f"content-length: {len(BODY)}",
    ],
)
def test_a_head_that_says_more_of_its_body_is_not_remembered(line: str):
    heads = ResponseHeads()
    packet = answer(BODY, line)
    name, _, value = line.partition(": ")
    headers = [(name.encode(), value.encode()), (b"content-length", str(len(BODY)).encode())]

    heads.learn(packet, headers, len(BODY))

    assert heads.read(packet) is None


@pytest.mark.parametrize(
    ("packet", "length"),
    [
        (answer(BODY, first="HTTP/1.1 404 Not Found"), len(BODY)),
        (answer() + answer(), len(BODY)),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + answer(), len(BODY)),
        (answer(BODY, *(f"x-{number}: {number}" for number in range(3))), len(BODY) + 1),
    ],
)
def test_what_is_not_one_whole_answer_is_not_learned_from(packet: bytes, length: int):
    heads = ResponseHeads()
    heads.learn(packet, Parsed(answer()).headers, length)
    assert heads.read(packet) is None
    assert heads.read(answer()) is None


def test_a_head_in_which_too_much_differs_is_not_remembered():
    packets = [answer(BODY, *(f"x-{number}: {value}" for number in range(MAX_HOLES))) for value in "ab"]
    assert learned(packets[0]).read(packets[0]) is not None
    assert learned(*packets).read(packets[0]) is None


def test_where_heads_keep_changing_few_are_learned():
    heads = ResponseHeads()
    kinds = [answer(BODY, f"x-{number}: a") for number in range(MAX_MISSES + 2)]
    for packet in kinds:
        heads.learn(packet, Parsed(packet).headers, len(BODY))
    assert heads.read(kinds[MAX_MISSES - 1]) is not None

    heads = ResponseHeads()
    for _ in range(LOOK_AGAIN):
        for packet in kinds[:2]:
            heads.learn(packet, Parsed(packet).headers, len(BODY))
    assert heads.read(kinds[1]) is not None


NAMES = st.sampled_from(["date", "X-Id", "content-type", "connection", "server", "x-a%b"])
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=8)
LINES = st.lists(st.tuples(NAMES, VALUES), max_size=4)


@given(st.data(), LINES)
def test_what_is_known_is_what_a_parser_reads(data: st.DataObject, lines: list[tuple[str, str]]):
    packets = []
    for _ in range(2):
        varied = [
            f"{name}: {data.draw(VALUES) if name in {'date', 'X-Id'} else value}" for name, value in lines
        ]
        packets.append(answer(data.draw(st.binary(min_size=1, max_size=20)), *varied))
    try:
        heads = learned(*packets)
    except httptools.HttpParserError:
        return
    at = data.draw(st.integers(0, len(packets[0])))
    changed = packets[0][:at] + data.draw(st.binary(max_size=3)) + packets[0][at + 1 :]

    for packet in (*packets, changed):
        found = heads.read(packet)
        if found is not None:
            parsed = Parsed(packet)
            known, body = found
            assert (parsed.whole, parsed.status, parsed.body) == (True, 200, body)
            assert known.memo.headers(known.values) == parsed.headers
            assert known.lines(lambda _: True) == b"".join(
                b"%b: %b\r\n" % header for header in parsed.headers
            )


def test_every_client_gets_the_head_and_body_of_its_own_answer(tmp_path: Path):
    said = [
        answer(b'{"choices": [%d]}' % number, "content-type: application/json", f"x-request-id: {number}")
        for number in range(6)
    ]
    said[4] = answer(
        b'{"choices": [4]}', "content-type: application/json", "x-request-id: 4", "retry-after: 1"
    )
    with ScriptedUpstream() as upstream, running_gateway(tmp_path, config_for(upstream.base_url)) as gateway:
        upstream.then(*(sends(packet, then="stay") for packet in said))
        with httpx.Client(base_url=gateway.base_url) as client:
            answers = []
            for _ in said:
                answers.append(client.post("/chat/completions", json=chat()))
                gateway.wait_idle(1)
        traces = gateway.traces(len(said))

    assert upstream.connections == 1
    assert [each.headers.get("x-request-id") for each in answers] == [str(number) for number in range(6)]
    assert [each.json()["choices"] for each in answers] == [[number] for number in range(6)]
    assert [each.headers.get("retry-after") for each in answers] == [None] * 4 + ["1", None]
    assert [trace.status for trace in traces] == [200] * 6
