from __future__ import annotations

import asyncio
import json
import socket

import pytest
import yaml

from benchmarks import ours
from benchmarks.client import Asked, Target, read_asked, times_of
from benchmarks.connection import Connection, connect
from benchmarks.install import last_line
from benchmarks.load_closed import counted, lua_string, script
from benchmarks.load_open import OpenLoop, arrivals
from benchmarks.machine import cpu_model
from benchmarks.nginx import fixed_configuration, proxy_configuration
from benchmarks.run import options_of, parameters_of
from benchmarks.streams import Streams
from benchmarks.types import QUICK, BenchmarkError, Parameters
from benchmarks.upstream_server import serve
from benchmarks.wire import ANSWER, CHUNKS, END, FINISH, MODEL, OPENING, PATH, TOKEN, requests
from gateway.config.load import load_config


def test_requests_differ_in_their_session_alone_and_say_how_long_they_are() -> None:
    whole = requests(stream=False, sessions=3, more={"x-more": "1"})
    heads = [request.partition(b"\r\n\r\n")[0] for request in whole]
    bodies = {request.partition(b"\r\n\r\n")[2] for request in whole}

    assert len(set(heads)) == 3
    assert len({head.replace(b"session-000%d" % number, b"") for number, head in enumerate(heads)}) == 1
    assert len(bodies) == 1
    assert f"content-length: {len(bodies.copy().pop())}".encode() in heads[0]
    assert b"\r\nx-more: 1\r\n" in heads[0]
    assert json.loads(bodies.pop())["model"] == MODEL


def test_the_fixed_answer_is_one_kilobyte_and_can_stand_in_a_configuration_of_nginx(tmp_path) -> None:
    assert 900 <= len(ANSWER) <= 1100
    assert ANSWER.decode() in fixed_configuration(tmp_path, 1234)
    for text in (fixed_configuration(tmp_path, 1234), proxy_configuration(tmp_path, 1234, 4321)):
        assert text.count("{") == text.count("}")
    assert "server 127.0.0.1:4321" in proxy_configuration(tmp_path, 1234, 4321)


def test_a_lua_string_holds_any_byte() -> None:
    assert lua_string(b'a"\\\r\n\x00\xff1') == '"a\\034\\092\\013\\010\\000\\2551"'
    assert lua_string(b"GET /") in script([b"GET /", b"GET /2"])


def test_what_wrk_counted_leaves_out_answers_that_are_not_200() -> None:
    times = counted(
        'Running\n{"answers":100,"not_200":4,"broken":1,"us":2000000,"p50_us":1500,"p99_us":9000}\n'
    )

    assert (times.answers, times.errors, times.seconds) == (96, 5, 2.0)
    assert (times.p50_ms, times.p99_ms, times.per_second) == (1.5, 9.0, 48.0)


@pytest.mark.parametrize(
    "output",
    ["", "unable to connect", '{"answers":4,"not_200":4,"broken":0,"us":1,"p50_us":1,"p99_us":1}'],
)
def test_a_load_without_a_good_answer_is_an_error_and_never_a_figure(output: str) -> None:
    with pytest.raises(BenchmarkError):
        counted(output)
    with pytest.raises(BenchmarkError, match="Internal Server Error"):
        times_of([], 7, 2.0, 0, "HTTP/1.1 500 Internal Server Error")


def test_arrivals_are_in_order_within_the_time_at_about_the_rate_and_the_same_for_one_seed() -> None:
    found = arrivals(1000, 10, seed=1)

    assert found == sorted(found)
    assert found[0] > 0
    assert found[-1] < 10
    assert 9500 < len(found) < 10500  # five standard deviations
    assert found == arrivals(1000, 10, seed=1) != arrivals(1000, 10, seed=2)


def test_a_client_is_asked_over_its_command_line_without_loss() -> None:
    asked = Asked(target=Target(port=1, headers={"a": "b"}, sessions=2), warm_s=1, measure_s=2, rate=3.5)

    assert read_asked(json.dumps(json.loads(msgspec_text(asked)))) == asked


def msgspec_text(asked: Asked) -> bytes:
    import msgspec

    return msgspec.json.encode(asked)


def test_the_reason_of_a_failed_installation_is_the_line_that_says_error() -> None:
    assert last_line("Looking\nERROR: No matching distribution\nnotice: a new pip\n") == (
        "ERROR: No matching distribution"
    )
    assert last_line("one\ntwo\n") == "two"
    assert last_line("") == "it said nothing"


def test_a_cpu_has_its_numbers_where_its_name_says_little() -> None:
    text = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\n"

    assert cpu_model(text) == "AMD EPYC, cpu family 25, model 17"


def test_our_configuration_loads_with_keys_prices_two_variants_and_a_store(tmp_path) -> None:
    path = tmp_path / "tracetune.yaml"
    path.write_text(yaml.safe_dump(ours.configuration(tmp_path, 8080, 9000, capture="full", workers=2)))
    config = load_config(path)

    assert config.listen.workers == 2
    assert config.auth is not None
    assert config.store.embedded
    assert [variant.weight for variant in config.routes[0].variants] == [0.9, 0.1]
    assert {price.model for price in config.upstreams[0].prices} == {"served", "served-too"}


def test_what_is_changed_on_the_command_line_is_changed_and_nothing_else() -> None:
    assert parameters_of(options_of([])) == Parameters()
    assert parameters_of(options_of(["--quick"])) == QUICK
    changed = parameters_of(options_of(["--rounds", "5", "--sessions", "1", "--nice", "-5"]))
    assert changed == Parameters(rounds=5, sessions=1, nice=-5)


@pytest.mark.parametrize("wrong", [["--name", "../x"], ["--rounds", "0"], ["--only", "nothing"]])
def test_a_wrong_option_is_refused_before_anything_starts(wrong: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        options_of(wrong)

    assert ended.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_a_stream_is_whole_however_its_bytes_are_cut(size: int) -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    data = head + OPENING + TOKEN * CHUNKS + FINISH + END
    ended = []
    connection = Connection()
    connection.connection_made(asyncio.Transport())
    connection._done = lambda _, ok: ended.append(ok)
    first_after = None
    for start in range(0, len(data), size):
        assert not ended
        connection.data_received(data[start : start + size])
        if first_after is None and connection.first_at:
            first_after = start + size

    assert ended == [True]
    if size == 7:
        assert first_after is not None
        assert first_after > len(head + OPENING)  # the opening chunk has no text


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ],
)
def test_an_answer_that_is_cut_or_no_success_is_an_error(data: bytes) -> None:
    ended = []
    connection = Connection()
    connection.connection_made(asyncio.Transport())
    connection._done = lambda _, ok: ended.append(ok)
    connection.data_received(data)
    connection.connection_lost(None)

    assert ended == [False]


async def test_the_upstream_streams_every_chunk_and_answers_buffered_when_asked_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = asyncio.create_task(serve(listener, 0.001))
        try:
            for stream, usage in ((False, False), (True, False), (True, True)):
                request = requests(stream=stream, sessions=1, more={})[0]
                if usage:
                    head, _, body = request.partition(b"\r\n\r\n")
                    body = body[:-1] + b',"stream_options":{"include_usage":true}}'
                    head = head.rpartition(b" ")[0] + b" %d" % len(body)
                    request = head + b"\r\n\r\n" + body
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request)
                received = await reader.readuntil(END if stream else ANSWER)
                writer.close()

                assert received.count(TOKEN) == (CHUNKS if stream else 0)
                assert (b'"usage"' in received) == (usage or not stream)
        finally:
            server.cancel()


async def test_both_clients_find_answers_and_no_errors_at_the_upstream_itself(capsys) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        target = Target(port=listener.getsockname()[1], sessions=4)
        server = asyncio.create_task(serve(listener, 0.001))
        try:
            streamed = await Streams(Asked(target=target, warm_s=0.2, measure_s=0.5, streams=3)).run()
            buffered = await OpenLoop(Asked(target=target, warm_s=0.1, measure_s=0.5, rate=200)).run()
        finally:
            server.cancel()

    assert streamed.answers > 0
    assert buffered.answers + buffered.warm_answers == len(arrivals(200, 0.6, seed=0))
    assert (streamed.errors, buffered.errors) == (0, 0)
    assert capsys.readouterr().out.split() == ["measuring", "measuring"]


async def test_a_connection_can_be_used_again_after_each_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = asyncio.create_task(serve(listener, 0.001))
        try:
            connection = await connect(listener.getsockname()[1])
            for _ in range(3):
                ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
                request = requests(stream=False, sessions=1, more={})[0]
                assert request.startswith(b"POST " + PATH.encode())
                connection.send(request, lambda _, ok, ended=ended: ended.set_result(ok))
                assert await ended
            connection.close()
        finally:
            server.cancel()
