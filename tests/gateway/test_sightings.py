"""What people are told of upstreams is what all workers see, and no worker that is gone is among them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.types import Limits, Upstream
from gateway.sightings import (
    SILENT_AFTER_S,
    ServerSeen,
    Teller,
    UpstreamSeen,
    WorkerSeen,
    all_workers,
    heard,
    views,
)
from tests.support.request_path import config_for, running_gateway

NOW = 1000.0
NEVER = float("-inf")
URLS = ["http://a/v1", "http://b/v1"]
UP = Upstream(name="up", base_urls=URLS, limits=Limits(concurrent=10, queue=5))


def server(url: str = URLS[0], **changes: Any) -> ServerSeen:
    values = {"state": "healthy", "outstanding": 0, "ejected_until": NEVER, "rests_until": NEVER, "why": None}
    return ServerSeen(url=url, **{**values, **changes})


def worker(index: int, *servers: ServerSeen, at: float = NOW, **changes: Any) -> WorkerSeen:
    values = {"name": "up", "in_flight": 0, "waiting": 0, "servers": list(servers)}
    return WorkerSeen(worker=index, at=at, in_flight=0, upstreams=[UpstreamSeen(**{**values, **changes})])


def ejected(seconds: float, why: str = "connect", url: str = URLS[0]) -> ServerSeen:
    return server(url, state="ejected", ejected_until=NOW + seconds, why=why)


SERVER = st.builds(
    ServerSeen,
    url=st.sampled_from(URLS),
    state=st.sampled_from(["healthy", "probing", "ejected"]),
    outstanding=st.integers(0, 100),
    ejected_until=st.floats(0, 2 * NOW),
    rests_until=st.floats(0, 2 * NOW),
    why=st.sampled_from(["connect", "status_500"]),
)


@given(st.lists(st.tuples(SERVER, st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8))
def test_load_is_the_sum_and_health_the_worst_of_what_workers_see(seen: list[tuple[ServerSeen, int, int]]):
    all_seen = [
        worker(index, *(msgspec.structs.replace(one, url=url) for url in URLS), in_flight=busy, waiting=waits)
        for index, (one, busy, waits) in enumerate(seen)
    ]
    (view,) = views([UP], all_seen, NOW)
    assert (view.workers, view.concurrent, view.queue) == (len(seen), 10, 5)
    assert view.in_flight == sum(busy for _, busy, _ in seen)
    assert view.waiting == sum(waits for _, _, waits in seen)
    out = [
        one.ejected_until - NOW for one, _, _ in seen if one.state == "ejected" and one.ejected_until > NOW
    ]
    for each in view.servers:
        assert each.outstanding == sum(one.outstanding for one, _, _ in seen)
        assert each.ejected_by == len(out)
        assert (each.state == "ejected") == bool(out)
        assert (each.ejected_for_s is None) == (not out)
        if out:
            assert each.ejected_for_s == pytest.approx(max(out), abs=0.001)
        assert (each.state == "healthy") == all(one.state == "healthy" for one, _, _ in seen)
        assert (each.why is None) == (each.state == "healthy")


def test_why_is_the_reason_of_the_ejection_that_lasts_longest():
    seen = [worker(0, ejected(3, "status_500"), server(URLS[1])), worker(1, ejected(7), server(URLS[1]))]
    (view,) = views([UP], seen, NOW)
    first, second = view.servers
    assert (first.state, first.ejected_by, first.ejected_for_s, first.why) == ("ejected", 2, 7, "connect")
    assert (second.state, second.ejected_by, second.ejected_for_s, second.why) == ("healthy", 0, None, None)


def test_a_pause_that_ended_since_it_was_seen_is_over():
    (view,) = views([UP], [worker(0, ejected(-0.1), server(URLS[1]))], NOW)
    assert (view.servers[0].state, view.servers[0].ejected_by, view.servers[0].why) == (
        "probing",
        0,
        "connect",
    )


def test_a_rest_is_told_while_it_lasts():
    seen = [worker(0, server(rests_until=NOW + 2), server(URLS[1], rests_until=NOW - 2))]
    (view,) = views([UP], seen, NOW)
    assert [each.rests_for_s for each in view.servers] == [2, None]


def test_a_worker_on_another_configuration_says_nothing_of_what_it_does_not_know():
    other = worker(1, server("http://gone/v1"))
    (view,) = views([UP], [worker(0, server(), server(URLS[1])), other, worker(2, name="else")], NOW)
    assert [each.url for each in view.servers] == URLS
    assert view.workers == 2


def test_the_silent_and_the_unreadable_are_not_heard(tmp_path: Path):
    said = {
        "w0": msgspec.msgpack.encode(worker(0, at=NOW)),
        "w1": msgspec.msgpack.encode(worker(1, at=NOW - SILENT_AFTER_S)),
        "w2": b"\xc1",
        "w3": msgspec.msgpack.encode(worker(3, at=NOW + 9 * SILENT_AFTER_S)),
    }
    for name, content in said.items():
        (tmp_path / f"{name}.seen").write_bytes(content)
    (tmp_path / ".w4.seen.1").write_bytes(said["w0"])
    assert [seen.worker for seen in heard(tmp_path, NOW)] == [0]
    assert heard(tmp_path / "nowhere", NOW) == []


def test_a_worker_says_what_it_sees_and_takes_it_back_when_it_ends(tmp_path: Path):
    with running_gateway(tmp_path, config_for("http://127.0.0.1:9/v1")) as gateway:
        state = gateway.state

        async def tell() -> None:
            telling = asyncio.create_task(Teller(state).run())
            deadline = time.monotonic() + 5
            while not (found := heard(state.paths.sightings, time.monotonic())):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
            assert found[0].upstreams[0].servers[0].ejected_until == NEVER
            assert [seen.worker for seen in await all_workers(state)] == [0], "not twice"
            telling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await telling
            assert heard(state.paths.sightings, time.monotonic()) == []

        asyncio.run(tell())


def test_shared_memory_that_refuses_is_said_once_and_stops_no_worker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gateway.sightings.SAY_EVERY_S", 0.01)
    with running_gateway(tmp_path, config_for("http://127.0.0.1:9/v1")) as gateway:
        gateway.state.paths.sightings.write_text("a file where the folder would be")

        async def tell() -> None:
            telling = asyncio.create_task(Teller(gateway.state).run())
            await asyncio.sleep(0.2)
            assert not telling.done()
            telling.cancel()

        asyncio.run(tell())
    assert len([r for r in caplog.records if "cannot say how upstreams are doing" in r.message]) == 1
