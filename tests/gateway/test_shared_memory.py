"""A clean stop leaves nothing in shared memory but what would be lost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config.types import Config
from gateway.metrics import WorkerMetrics, metrics_directory
from gateway.paths import Paths
from gateway.quotas import Ledger, QuotaFiles, Reservation
from gateway.supervisor.shared_memory import release
from gateway.traces.segments import SegmentWriter
from gateway.traces.types import CapturedFeedback
from gateway.upstream.machine_cells import machine_of
from tests.support.quotas import NOW_S, auth_of, standing
from tests.support.system import free_port, running_system

LIMITED = auth_of(web=[{"per": "month", "usd": 5}])
SAID = CapturedFeedback(
    feedback_id="f",
    trace_id=None,
    session="s",
    client="",
    kind="rating",
    value=1.0,
    text=None,
    created_at_us=1,
)


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    found = Paths(tmp_path, tmp_path / "spool")
    yield found
    shutil.rmtree(found.segments, ignore_errors=True)


def writer(paths: Paths, config: Config) -> SegmentWriter:
    return SegmentWriter(
        paths.segments, "w0", max_bytes=config.capture.memory_bytes, at_bound=config.capture.at_bound
    )


def test_what_dead_workers_counted_goes_with_the_last_of_them(paths: Paths) -> None:
    metrics = WorkerMetrics(metrics_directory(paths), "w0")

    release(paths)
    assert paths.segments.is_dir(), "a worker still lives"
    metrics.close()
    release(paths)

    assert not paths.segments.exists()
    release(paths)  # a second time is nothing


def test_what_a_killed_worker_said_last_keeps_nothing_there(paths: Paths) -> None:
    paths.sightings.mkdir(parents=True)
    (paths.sightings / "w0.seen").write_bytes(b"")

    release(paths)

    assert not paths.segments.exists()


def test_the_account_of_a_machine_keeps_nothing_there(paths: Paths) -> None:
    machine_of("local", 1.2, paths.machines, worker=0, workers=2)
    release(paths)

    assert not paths.segments.exists()


def test_a_segment_that_no_recorder_has_taken_stays(paths: Paths, embedded_config: Config) -> None:
    segments = writer(paths, embedded_config)
    assert segments.append(SAID)
    segments.close()

    release(paths)

    assert list(paths.segments.glob("*.seg"))


def test_what_was_dropped_stays_counted_in_one_small_file(paths: Paths) -> None:
    metrics = WorkerMetrics(metrics_directory(paths), "w0")
    metrics.capture_dropped({"memory_bound": 3})
    metrics.close()

    release(paths)

    left = [path for path in paths.segments.rglob("*") if path.is_file()]
    assert "memory_bound" in (metrics_directory(paths) / "retired.json").read_text()
    assert sum(path.stat().st_size for path in left) < 10_000


def spend(paths: Paths) -> None:
    """One request of the key `web`, by a worker that is killed without a word."""
    ledger = Ledger(QuotaFiles.of(paths))
    taken = ledger.reserve(ledger.accounts(LIMITED)["web"], NOW_S, tokens=1, usd=0.5)
    assert isinstance(taken, Reservation)
    ledger.settle(taken, tokens=1, usd=0.5)
    ledger.close()


def test_what_keys_have_used_is_on_disk_before_shared_memory_goes(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: NOW_S)
    spend(paths)

    release(paths)

    assert not paths.segments.exists()
    again = Ledger(QuotaFiles.of(paths))
    again.accounts(LIMITED)
    assert standing(again, LIMITED, NOW_S, "month", "usd").used == 0.5
    again.close()


def test_what_keys_have_used_stays_in_shared_memory_where_the_disk_refuses(
    paths: Paths, caplog: pytest.LogCaptureFixture
) -> None:
    spend(paths)
    paths.state.write_text("a file where the folder should be")

    release(paths)

    assert QuotaFiles.of(paths).exist()
    assert "could not be released" in caplog.text


def test_nothing_is_left_in_shared_memory_when_up_has_stopped(tmp_path: Path) -> None:
    path = tmp_path / "tracetune.yaml"
    path.write_text(
        f"listen: {{port: {free_port()}}}\n"
        "upstreams: [{name: a, base_url: http://127.0.0.1:1/v1}]\n"
        "routes: [{model: m, variants: [{name: s, upstream: a, model: x}]}]\n"
    )

    with running_system(path) as system:
        assert system.paths.segments.is_dir()
        segments = system.paths.segments

    assert not segments.exists()
