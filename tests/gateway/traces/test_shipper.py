"""Recorder and shipper into a real store: killed, cut off and poisoned, every row is there once."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config import Config, load_config
from gateway.paths import Paths, paths_of
from gateway.traces.recorder import Recorder
from gateway.traces.segments import SegmentWriter, writer_name
from gateway.traces.shipper import Shipper, open_migrated
from gateway.traces.spool.spool import Spool
from gateway.traces.spool.spool_file import encode_record, sealed_files
from gateway.traces.store import Store
from gateway.traces.types import NO_TOKEN_PRICE
from tests.support.capture import (
    ANSWER,
    REQUEST,
    captured_event,
    captured_feedback,
    captured_trace,
    running,
    stop,
    wait_until,
)
from tests.support.forked import forked, kill
from tests.support.store import StoreProcess, a_trace, started_store, write_config

BODY = json.dumps(REQUEST).encode(), [json.dumps(ANSWER).encode()]


@contextlib.contextmanager
def data_directory(config_path: Path) -> Iterator[tuple[Config, Paths]]:
    """The configuration and its paths; what lies in shared memory and the spool goes at the end."""
    config = load_config(config_path)
    paths = paths_of(config)
    try:
        yield config, paths
    finally:
        shutil.rmtree(paths.segments, ignore_errors=True)
        shutil.rmtree(paths.spool, ignore_errors=True)
        shutil.rmtree(paths.state, ignore_errors=True)


def writer_of(paths: Paths, index: int = 0) -> SegmentWriter:
    return SegmentWriter(paths.segments, writer_name(index), max_bytes=256_000_000, at_bound="drop_oldest")


def shipper_of(config: Config, paths: Paths) -> Shipper:
    return Shipper(paths.spool, paths.state, lambda: open_migrated(config), threading.Event())


def report(paths: Paths, stage: str) -> dict[str, Any]:
    return json.loads((paths.state / f"{stage}.json").read_text())  # type: ignore[no-any-return]


def stored_ids(store: Store) -> list[str]:
    return [row["trace_id"] for row in store.query("SELECT trace_id FROM traces")]


def test_everything_captured_can_be_asked_for_in_its_table(
    embedded_config_path: Path, clean_store: Store
) -> None:
    with data_directory(embedded_config_path) as (config, paths):
        writer = writer_of(paths)
        writer.append(captured_trace("t1", tags={"a": "b"}), *BODY)
        writer.append(
            captured_trace("t2", capture="metadata", price=NO_TOKEN_PRICE, machine_cost_usd=0.5), *BODY
        )
        writer.append(captured_feedback("f1", trace_id="t1", kind="kept", text="thanks"))
        writer.append(captured_event(version=4))
        Recorder(config).close()
        shipper = shipper_of(config, paths)
        assert shipper.step()
        assert not shipper.step()
        shipper.close()
        full, metadata = clean_store.query("SELECT * FROM traces ORDER BY trace_id")
        assert json.loads(full["request"]) == REQUEST
        assert json.loads(full["response"]) == ANSWER
        assert (full["tokens_in"], full["tokens_cached"], full["tags"]) == (100, None, {"a": "b"})
        assert (metadata["request"], metadata["response"]) == (None, None)
        assert (metadata["tokens_in"], metadata["cost_usd"]) == (100, 0.5)
        assert [row["text"] for row in clean_store.query("SELECT text FROM feedback")] == ["thanks"]
        assert [row["version"] for row in clean_store.query("SELECT version FROM rollouts")] == [4]
        assert sealed_files(paths.spool) == []
        told = report(paths, "shipper")
        assert (told["written"], told["quarantined"], told["backlog_bytes"], told["errors"]) == (
            4,
            0,
            0,
            None,
        )


def test_a_poison_row_is_set_aside_with_the_reason_and_blocks_no_other(
    embedded_config_path: Path, clean_store: Store
) -> None:
    with data_directory(embedded_config_path) as (config, paths):
        spool = Spool(paths.spool, fsync="always", max_bytes=100_000_000)
        rows = [a_trace(trace_id=f"t{n}", status=-5 if n == 7 else 200) for n in range(20)]
        spool.append([encode_record("w.seg", n, n, "traces", row) for n, row in enumerate(rows, 1)])
        spool.seal()
        (path,) = sealed_files(paths.spool)
        shipper = shipper_of(config, paths)
        shipper.step()
        shipper.close()
        assert sorted(stored_ids(clean_store)) == sorted(f"t{n}" for n in range(20) if n != 7)
        (quarantined,) = (paths.spool / "quarantine").iterdir()
        assert quarantined.stem == path.stem
        (line,) = quarantined.read_text().splitlines()
        entry = json.loads(line)
        assert (entry["table"], entry["row"]["trace_id"]) == ("traces", "t7")
        assert "traces" in entry["reason"]
        assert report(paths, "shipper")["quarantined"] == 1


def test_torn_and_damaged_files_give_what_is_whole_and_are_counted(
    embedded_config_path: Path, clean_store: Store
) -> None:
    with data_directory(embedded_config_path) as (config, paths):
        spool = Spool(paths.spool, fsync="never", max_bytes=100_000_000)
        payloads = [encode_record("w.seg", n, n, "traces", a_trace(trace_id=f"t{n}")) for n in range(1, 4)]
        spool.append(payloads)
        spool.seal()
        (path,) = sealed_files(paths.spool)
        data = bytearray(path.read_bytes())
        data[8 + 8 + 40] ^= 0xFF  # in the first record
        path.write_bytes(bytes(data) + b"\x00" * 5)
        shipper = shipper_of(config, paths)
        shipper.step()
        shipper.close()
        assert sorted(stored_ids(clean_store)) == ["t2", "t3"]
        told = report(paths, "shipper")
        assert (told["torn"], told["quarantined"], told["written"]) == (1, 1, 2)


def test_a_file_that_was_stored_already_is_not_stored_again(
    embedded_config_path: Path, clean_store: Store
) -> None:
    with data_directory(embedded_config_path) as (config, paths):
        writer_of(paths).append(captured_trace("t1"), *BODY)
        Recorder(config).close()
        (path,) = sealed_files(paths.spool)
        content = path.read_bytes()
        for _ in range(3):
            path.write_bytes(content)  # killed after the store had confirmed, before the file was deleted
            shipper = shipper_of(config, paths)
            shipper.step()
            shipper.close()
        assert stored_ids(clean_store) == ["t1"]


def test_an_outage_is_waited_out_said_and_drained(tmp_path: Path) -> None:
    config_path = write_config(tmp_path)
    with (
        data_directory(config_path) as (config, paths),
        running("recorder", config_path) as recorder,
        running("shipper", config_path) as shipper,
    ):
        writer = writer_of(paths)
        wait_until((paths.state / "recorder.json").exists)
        for n in range(300):
            writer.append(captured_trace(f"t{n}"), *BODY)
        wait_until(lambda: (paths.state / "shipper.json").exists() and report(paths, "shipper")["errors"])
        wait_until(lambda: report(paths, "shipper")["backlog_bytes"])
        told = report(paths, "shipper")
        assert told["backlog_bytes"] > 0
        assert told["oldest_age_s"] is not None
        with started_store(config_path), Store.connect(config, {}) as store:
            wait_until(lambda: "traces" in {r["name"] for r in store.query("SHOW TABLES")})
            wait_until(lambda: len(stored_ids(store)) >= 300)
            assert sorted(stored_ids(store)) == sorted(f"t{n}" for n in range(300))
            started = time.time()
            writer.append(captured_trace("late"), *BODY)
            wait_until(lambda: "late" in stored_ids(store), 5)
            assert time.time() - started < 5
            wait_until(lambda: report(paths, "shipper")["errors"] is None)
            assert stop(recorder)[0] == 0
            code, logged = stop(shipper)
            assert code == 0
            assert "rows wait in the spool" in logged
            assert "takes rows again" in logged


def test_a_store_out_of_reach_is_said_without_any_traffic(tmp_path: Path) -> None:
    config_path = write_config(tmp_path)
    text = config_path.read_text()
    config_path.write_text(text.replace(f"embedded:{tmp_path}/data", "clickhouse://127.0.0.1:9/traces"))
    with data_directory(config_path) as (_, paths), running("shipper", config_path) as shipper:
        wait_until((paths.state / "shipper.json").exists)
        wait_until(lambda: report(paths, "shipper")["errors"], 10)
        code, logged = stop(shipper)

        assert (code, logged.count("127.0.0.1:9 does not answer; check store.url")) == (0, 1)


class Fleet:
    """Worker, recorder and shipper as children of this process, each started again after it was killed."""

    def __init__(self, config: Config, paths: Paths) -> None:
        self.config, self.paths = config, paths
        paths.data.mkdir(exist_ok=True)
        self.told = paths.data / "acknowledged"
        self.workers = 0
        self.children = {name: forked(getattr(self, name)) for name in ("worker", "recorder", "shipper")}

    def replace(self, name: str) -> None:
        kill(self.children[name])
        self.workers += 1
        self.children[name] = forked(getattr(self, name))

    def end(self) -> None:
        for child in self.children.values():
            kill(child)

    def worker(self) -> None:
        writer = writer_of(self.paths, self.workers)
        told = os.open(self.told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for count in range(1_000_000):
            name = f"t{self.workers}-{count}"
            writer.append(captured_trace(name), *BODY)
            os.write(told, f"{name}\n".encode())
            time.sleep(0.002)

    def recorder(self) -> None:
        recorder = Recorder(self.config)
        while True:
            recorder.step()
            if recorder._spool.holds_rows:
                recorder._seal()  # many small files: more moments to be killed at
            time.sleep(0.02)

    def shipper(self) -> None:
        shipper = shipper_of(self.config, self.paths)
        while True:
            shipper.step()
            time.sleep(0.005)


def test_killed_at_any_moment_no_stage_loses_or_doubles_a_row(tmp_path: Path) -> None:
    config_path = write_config(tmp_path)
    dice = random.Random(17)
    with data_directory(config_path) as (config, paths):
        server = StoreProcess(config_path)
        server.wait_ready()
        fleet = Fleet(config, paths)
        try:
            for run in range(10):
                time.sleep(dice.uniform(0.1, 0.5))
                if run == 5:
                    server.kill()
                    server = StoreProcess(config_path)
                    server.wait_ready()
                else:
                    fleet.replace(["shipper", "worker", "shipper", "recorder"][run % 4])
        finally:
            fleet.end()
        last = Recorder(config)
        last.close()
        shipper = shipper_of(config, paths)
        while shipper.step():
            pass
        shipper.close()
        try:
            with Store.connect(config, {}) as store:
                stored = stored_ids(store)
        finally:
            server.stop()
        acknowledged = fleet.told.read_text().split()
        assert len(acknowledged) > 300
        assert set(acknowledged) - set(stored) == set()
        assert len(stored) == len(set(stored))
        assert report(paths, "recorder")["dropped"] == {}
        assert list(paths.spool.glob("quarantine/*")) == []


def test_rows_of_a_version_with_other_columns_are_shipped_as_they_are(
    embedded_config_path: Path, clean_store: Store
) -> None:
    with data_directory(embedded_config_path) as (config, paths):
        row = msgspec.structs.asdict(a_trace(trace_id="old"))
        del row["traceparent"]
        spool = Spool(paths.spool, fsync="never", max_bytes=100_000_000)
        old = msgspec.defstruct("OldTrace", list(row))
        spool.append([encode_record("w.seg", 1, 1, "traces", old(*row.values()))])
        spool.seal()
        shipper = shipper_of(config, paths)
        shipper.step()
        shipper.close()
        assert clean_store.query("SELECT trace_id, traceparent FROM traces") == [
            {"trace_id": "old", "traceparent": None}
        ]


@pytest.mark.parametrize("module", ["recorder", "shipper"])
def test_a_missing_configuration_is_one_line_and_exit_2(module: str, tmp_path: Path) -> None:
    with running(module, tmp_path / "none.yaml") as process:
        _, logged = process.communicate(timeout=10)
    assert (process.returncode, logged.count("\n")) == (2, 1)
    assert "none.yaml" in logged
