"""Counters of many workers: nothing is lost when one dies, nothing counted twice, nothing unbounded."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import metric_slots
from gateway.control.metrics_page import render
from gateway.metric_slots import SeriesKey, SlotReader, SlotWriter
from gateway.metrics import GAUGES, OUTCOMES, WorkerMetrics
from gateway.table import Table

REPOSITORY = Path(__file__).parents[3]
NO_TABLE = Table(routes={}, default_upstream=None, hash="")


def total(directory: Path, name: str, *labels: str) -> list[float]:
    return SlotReader(directory, GAUGES).totals()[0].get(SeriesKey(name, labels), [0.0])


def finish(metrics: WorkerMetrics, variant: str = "a", outcome: str = "ok") -> None:
    metrics.request_started()
    metrics.request_finished("r", variant, "chat", outcome, upstream_s=0.2, overhead_s=0.0001, ttft_s=None)


def test_all_workers_are_added_up_and_the_dead_keep_their_counts_but_not_their_gauges(tmp_path: Path):
    first, second = WorkerMetrics(tmp_path, "w0"), WorkerMetrics(tmp_path, "w1")
    for metrics in (first, second):
        finish(metrics)
        metrics.request_started()
    assert total(tmp_path, "tracetune_requests_total", "r", "a", "ok") == [2]
    assert total(tmp_path, "tracetune_in_flight") == [2]
    first.close()
    for _ in range(3):  # folded once, however often anyone reads
        assert total(tmp_path, "tracetune_requests_total", "r", "a", "ok") == [2]
        assert total(tmp_path, "tracetune_in_flight") == [1]
    assert not (tmp_path / "w0.values").exists()
    assert SlotReader(tmp_path, GAUGES).totals()[1] == 1
    second.close()


def test_a_kill_between_folding_and_unlinking_counts_nothing_twice(tmp_path: Path):
    metrics = WorkerMetrics(tmp_path, "w0")
    finish(metrics)
    metrics.close()
    content = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    reader = SlotReader(tmp_path, GAUGES)
    reader.totals()
    # As after a kill behind the first of the two writes of `_fold`: totals saved, the worker's files still there.
    retired = (tmp_path / "retired.json").read_bytes().replace(b'"folded":[]', b'"folded":["w0"]')
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "retired.json").write_bytes(retired)
    assert total(tmp_path, "tracetune_requests_total", "r", "a", "ok") == [1]
    assert not (tmp_path / "w0.values").exists()


def test_what_a_worker_counted_outlives_sigkill(tmp_path: Path):
    script = (
        "import os, signal; from pathlib import Path; from gateway.metrics import WorkerMetrics\n"
        f"m = WorkerMetrics(Path({str(tmp_path)!r}), 'w0')\n"
        "for _ in range(1000):\n"
        "    m.request_started()\n"
        "    m.request_finished('r', 'a', 'chat', 'ok', upstream_s=1, overhead_s=1e-4, ttft_s=0.5)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert total(tmp_path, "tracetune_requests_total", "r", "a", "ok") == [1000]
    assert total(tmp_path, "gen_ai_server_time_to_first_token_seconds", "chat", "r", "a")[0] == pytest.approx(
        500
    )


@given(st.lists(st.floats(min_value=0, max_value=1000), max_size=50))
def test_a_histogram_counts_each_value_once_in_the_bucket_that_holds_it(values: list[float]):
    directory = Path(f"/dev/shm/tracetune-test-{os.getpid()}")
    metrics = WorkerMetrics(directory, f"w{os.urandom(6).hex()}")
    try:
        for value in values:
            metrics.request_started()
            metrics.request_finished("r", "a", "chat", "ok", upstream_s=value, overhead_s=0.0, ttft_s=None)
        sum_s, *counts = total(directory, "tracetune_upstream_seconds", "r", "a")
        if values:
            bounds = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 600, float("inf")]
            below = [sum(value <= bound for value in values) for bound in bounds]
            assert [sum(counts[: index + 1]) for index in range(len(bounds))] == below
        assert sum_s == pytest.approx(sum(values))
    finally:
        metrics.close()
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()


def test_workers_that_keep_dying_fill_no_memory_where_nobody_reads(tmp_path: Path):
    for number in range(5):
        metrics = WorkerMetrics(tmp_path, f"w{number}")
        finish(metrics)
        metrics.close()
    old = (tmp_path / ".w9-abc", tmp_path / "w9.keys")
    for path in old:
        path.touch()
        os.utime(path, (1, 1))
    last = WorkerMetrics(tmp_path, "last")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "last.keys",
        "last.values",
        "lock",
        "retired.json",
    ]
    assert total(tmp_path, "tracetune_requests_total", "r", "a", "ok") == [5]
    last.close()


def test_a_series_in_progress_is_not_read(tmp_path: Path):
    writer = SlotWriter(tmp_path, "w0")
    writer.allocate(SeriesKey("a", ()), 1)
    with (tmp_path / "w0.keys").open("ab") as keys:
        keys.write(b'[["b",[]],1')
    assert list(SlotReader(tmp_path, GAUGES).totals()[0]) == [SeriesKey("a", ())]
    writer.close()


def test_variants_beyond_the_room_are_said_once_and_harm_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(metric_slots, "MAX_SLOTS", 256)
    metrics = WorkerMetrics(tmp_path, "w0")
    with caplog.at_level(logging.WARNING):
        for number in range(20):
            finish(metrics, f"v{number}")
    assert len(caplog.records) == 1
    assert "MAX_SLOTS" in caplog.text
    assert total(tmp_path, "tracetune_requests_total", "r", "v0", "ok") == [1]
    metrics.close()


def test_no_shared_memory_is_said_and_stops_no_worker(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    blocked = tmp_path / "file"
    blocked.write_text("")
    metrics = WorkerMetrics(blocked, "w0")
    assert "/metrics lacks this worker" in caplog.text
    for outcome in OUTCOMES:
        finish(metrics, outcome=outcome)
    metrics.close()


def test_failures_reloads_and_drops_are_counted_by_their_reason(tmp_path: Path):
    metrics = WorkerMetrics(tmp_path, "w0")
    metrics.attempt_failed("openai", "connect")
    metrics.attempt_failed("openai", "connect")
    metrics.config_reloaded("invalid")
    metrics.capture_dropped({"memory_bound": 3})
    metrics.capture_dropped({"memory_bound": 5})  # a level, not an increment
    assert total(tmp_path, "tracetune_attempts_failed_total", "openai", "connect") == [2]
    assert total(tmp_path, "tracetune_config_reloads_total", "invalid") == [1]
    assert total(tmp_path, "tracetune_capture_dropped_total", "worker", "memory_bound") == [5]
    page, _ = render(tmp_path, {}, NO_TABLE, "")
    assert b'tracetune_capture_dropped_total{reason="memory_bound",stage="worker"} 5.0' in page
    metrics.close()


def test_a_damaged_record_of_former_workers_is_said_and_started_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "retired.json").write_bytes(b"{")
    assert SlotReader(tmp_path, GAUGES).totals() == ({}, 0)
    assert "counts of former workers are lost" in caplog.text
