"""Encryption per subject from the worker's segment to a reader: nothing readable on any disk, nothing lost."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config import Config, JudgeConfig, load_config
from gateway.errors import ConfigError, KeyringError
from gateway.paths import Paths, paths_of
from gateway.traces.bodies.bodies import Bodies
from gateway.traces.encryption.key_source import KeySource
from gateway.traces.encryption.keyring import FORGET_WITHIN_S, open_keyring
from gateway.traces.markers import ERASED, ERASED_REASON
from gateway.traces.recorder import Recorder
from gateway.traces.segments import SegmentWriter, writer_name
from gateway.traces.spool.spool_file import read_spool
from gateway.traces.store import Store
from gateway.traces.types import Feedback, Trace
from judges.definition import definition_of
from judges.executor import executor_of
from judges.load import read_source
from judges.passes import judge_traces
from judges.pending import JudgeVersion, due
from judges.sandbox import Sandbox
from judges.wire import Task
from tests.support.capture import ANSWER, captured_feedback, captured_trace, running, stop, wait_until
from tests.support.forked import forked
from tests.support.judging import ALWAYS
from tests.support.store import a_trace, started_store, write_config

ENVIRON = {"MASTER": base64.b64encode(b"m" * 32).decode()}
PRIVACY = "privacy: {encrypt: per_subject, master_key: {env: MASTER}}\n"
PLANTED = "my aunt Philippa keeps seven lavender ferrets"


@pytest.fixture
def config_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MASTER", ENVIRON["MASTER"])
    path = write_config(tmp_path, PRIVACY)
    yield path
    shutil.rmtree(paths_of(load_config(path)).segments, ignore_errors=True)


@pytest.fixture
def config(config_path: Path) -> Config:
    return load_config(config_path)


def writer_of(paths: Paths) -> SegmentWriter:
    return SegmentWriter(paths.segments, writer_name(0), max_bytes=256_000_000, at_bound="drop_oldest")


def asked(text: str) -> bytes:
    return json.dumps({"model": "support-bot", "messages": [{"role": "user", "content": text}]}).encode()


def answered(text: str) -> list[bytes]:
    return [
        json.dumps({**ANSWER, "choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).encode()
    ]


def spooled(paths: Paths) -> list[dict[str, Any]]:
    files = [path for path in sorted(paths.spool.iterdir()) if path.suffix in (".open", ".sealed")]
    return [msgspec.msgpack.decode(record.row) for path in files for record in read_spool(path).records]


def files_holding(folder: Path, text: str) -> list[str]:
    """Files under *folder* that hold *text*, plain or in base64 at any offset."""
    forms = [text.encode()]
    for shift in range(3):
        encoded = base64.b64encode(b"x" * shift + text.encode())
        forms.append(encoded[4 if shift else 0 : -4])
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            found += [str(path) for form in forms if form in data]
    return found


def test_a_planted_text_is_in_no_file_and_every_reader_sees_it(
    config_path: Path, config: Config, tmp_path: Path
) -> None:
    paths = paths_of(config)
    judge = tmp_path / "judge.py"
    judge.write_text("def quoting(trace):\n    import judges\n    return judges.abstain(trace.answer)\n")
    with (
        started_store(config_path),
        running("recorder", config_path) as recorder,
        running("shipper", config_path) as shipper,
    ):
        writer = writer_of(paths)
        writer.append(captured_trace("t1", subject="ann"), asked(PLANTED), answered(PLANTED))
        writer.append(captured_feedback("f1", kind="kept", text=PLANTED, trace_id="t1"))
        with Store.connect(config, wait_s=20) as store:
            wait_until(lambda: _count(store, "traces") + _count(store, "feedback") == 2, 30)
            (row,) = store.query("SELECT * FROM traces")
            assert "ferrets" not in json.dumps(row, default=str)
            trace = store.bodies.trace(msgspec.convert(row, Trace, strict=False))
            assert json.loads(trace.request or "")["messages"][0]["content"] == PLANTED
            (said,) = store.query("SELECT * FROM feedback")
            assert store.bodies.feedback(msgspec.convert(said, Feedback, strict=False)).text == PLANTED

            # One that is late on a busy machine quotes nothing.
            settings = JudgeConfig(name="quoting", path=f"{judge}:quoting", timeout_s=60, memory_mb=1024)
            definition = definition_of(settings)
            version = JudgeVersion(judge="quoting", version=definition.version)
            with executor_of(config, settings, definition) as executor:
                judge_traces(
                    store, executor, version, due(store, version, ALWAYS, limit=10), stop=lambda: False
                )
        shown = _shown(config_path)
        assert shown.count(PLANTED) == 4, "request, response, feedback and what the judge quoted"
        assert files_holding(paths.data, "lavender ferrets") == []
        writer.close()
        said_by = [stop(recorder)[1], stop(shipper)[1]]
    assert "ferrets" not in "".join(said_by)
    assert files_holding(paths.data, "lavender ferrets") == []


def _count(store: Store, table: str) -> int:
    try:
        return int(store.query(f"SELECT count() AS n FROM {table}")[0]["n"])
    except Exception:  # noqa: BLE001 -- the shipper makes the tables
        return 0


def _shown(config_path: Path) -> str:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "gateway.cli.root",
            "traces",
            "show",
            "t1",
            "--json",
            "--config",
            str(config_path),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_subjects_have_keys_of_their_own_and_feedback_is_under_that_of_its_trace(config: Config) -> None:
    paths = paths_of(config)
    writer, recorder = writer_of(paths), Recorder(config)
    for trace_id, subject, session in (
        ("a", "ann", "s1"),
        ("b", "bob", "s1"),
        ("c", None, "s1"),
        ("d", "ann", "s2"),
    ):
        writer.append(captured_trace(trace_id, subject=subject, session=session), asked("hi"), answered("ho"))
    writer.append(captured_feedback("f", trace_id="a", text="fine"))
    writer.append(captured_feedback("g", trace_id="a", text="fine", client="another"))
    recorder.close()
    keys = {
        row.get("feedback_id") or row["trace_id"]: json.loads(row.get("text") or row["request"])[
            "x_tracetune"
        ]["key"]
        for row in spooled(paths)
    }
    assert keys["a"] == keys["d"] == keys["f"]
    assert len({keys["a"], keys["b"], keys["c"], keys["g"]}) == 4


def test_metadata_is_plain_and_usage_counts_as_without_encryption(config: Config) -> None:
    paths = paths_of(config)
    writer, recorder = writer_of(paths), Recorder(config)
    writer.append(captured_trace("t1", tags={"team": "a"}), asked("hi"), answered("ho"))
    recorder.close()
    (row,) = spooled(paths)
    assert (row["tokens_in"], row["tokens_out"], row["tags"]) == (100, 20, {"team": "a"})
    assert json.loads(row["usage"]) == ANSWER["usage"]


def test_a_destroyed_subject_reads_as_erased_and_everybody_else_as_before(config: Config) -> None:
    paths = paths_of(config)
    writer, recorder = writer_of(paths), Recorder(config)
    for subject in ("ann", "bob"):
        writer.append(captured_trace(subject, subject=subject), asked(subject), answered(subject))
    recorder.close()
    keys = open_keyring(KeySource.of(config), ENVIRON)
    assert keys is not None
    assert keys.destroy("", "ann") == 1
    rows = {row["trace_id"]: msgspec.convert(row, Trace, strict=False) for row in spooled(paths)}
    bodies = Bodies.of(KeySource.of(config), ENVIRON)
    assert bodies.trace(rows["ann"]).request == bodies.trace(rows["ann"]).response == ERASED
    assert json.loads(bodies.trace(rows["bob"]).request or "")["messages"][0]["content"] == "bob"


def test_a_judge_abstains_on_what_was_erased_and_never_sees_it(tmp_path: Path) -> None:
    judge = tmp_path / "judge.py"
    judge.write_text("def good(trace):\n    return True\n")
    with Sandbox(read_source(judge, "good"), timeout_s=60, memory_mb=1024) as sandbox:
        sandbox.start()
        tasks = [
            Task(trace=a_trace(request=ERASED, response=ERASED), feedback=[]),
            Task(trace=a_trace(), feedback=[]),
        ]
        erased, whole = sandbox.judge(iter(tasks))
    assert (erased.score, erased.reason) == (None, ERASED_REASON)
    assert whole.score == 1.0


def test_a_subject_that_comes_back_has_a_new_key(config: Config) -> None:
    paths = paths_of(config)
    writer, recorder = writer_of(paths), Recorder(config)
    keys = open_keyring(KeySource.of(config), ENVIRON)
    assert keys is not None
    writer.append(captured_trace("before", subject="ann"), asked("before"), answered("x"))
    recorder.step()
    keys.destroy("", "ann")
    time.sleep(FORGET_WITHIN_S)
    writer.append(captured_trace("after", subject="ann"), asked("after"), answered("x"))
    recorder.close()
    rows = {row["trace_id"]: msgspec.convert(row, Trace, strict=False) for row in spooled(paths)}
    bodies = Bodies.of(KeySource.of(config), ENVIRON)
    assert bodies.trace(rows["before"]).request == ERASED
    assert json.loads(bodies.trace(rows["after"]).request or "")["messages"][0]["content"] == "after"


def test_new_subjects_are_recorded_while_the_store_is_away(config: Config) -> None:
    """No store runs in this test at all."""
    paths = paths_of(config)
    writer, recorder = writer_of(paths), Recorder(config)
    for n in range(20):
        writer.append(captured_trace(f"t{n}", subject=f"p{n}"), asked(f"hello {n}"), answered("x"))
    recorder.close()
    bodies = Bodies.of(KeySource.of(config), ENVIRON)
    said = [bodies.trace(msgspec.convert(row, Trace, strict=False)).request or "" for row in spooled(paths)]
    assert [json.loads(text)["messages"][0]["content"] for text in said] == [f"hello {n}" for n in range(20)]


@pytest.mark.parametrize("killed_at", ["before the key", "between key and row", "after the row"])
def test_a_recorder_killed_around_a_new_key_loses_nothing_and_repeats_nothing(
    config: Config, killed_at: str
) -> None:
    paths = paths_of(config)
    writer = writer_of(paths)
    for n in range(3):
        writer.append(captured_trace(f"t{n}", subject=f"p{n}"), asked(f"hello {n}"), answered("x"))

    def record_and_die() -> None:
        recorder = Recorder(config)
        keyring, spool = recorder._keyring, recorder._spool
        assert keyring is not None
        append = spool.append
        if killed_at == "before the key":
            keyring.commit = _die  # type: ignore[method-assign]  # a SIGKILL at this very place
        elif killed_at == "between key and row":
            spool.append = _die  # type: ignore[method-assign]  # as above
        else:
            spool.append = lambda payloads: (append(payloads), _die())  # type: ignore[method-assign]  # as above
        recorder.step()
        os._exit(0)

    child = forked(record_and_die)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    Recorder(config).close()
    rows = {row["trace_id"]: msgspec.convert(row, Trace, strict=False) for row in spooled(paths)}
    assert sorted(rows) == ["t0", "t1", "t2"]
    assert len(spooled(paths)) == 3
    bodies = Bodies.of(KeySource.of(config), ENVIRON)
    for n in range(3):
        text = bodies.trace(rows[f"t{n}"]).request or ""
        assert json.loads(text)["messages"][0]["content"] == f"hello {n}"


def _die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_no_row_is_written_while_its_key_cannot_be(config: Config) -> None:
    paths = paths_of(config)
    writer, recorder = writer_of(paths), Recorder(config)
    assert recorder._keyring is not None
    recorder._keyring._db.execute("PRAGMA busy_timeout = 20")
    other = sqlite3.connect(paths.keyring, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    writer.append(captured_trace("t1", subject="ann"), asked("hello"), answered("x"))
    assert recorder.step() is False
    assert spooled(paths) == []
    other.execute("ROLLBACK")
    other.close()
    recorder.close()
    assert [row["trace_id"] for row in spooled(paths)] == ["t1"]


def test_a_lost_master_key_is_a_clear_end_and_nothing_is_lost(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = paths_of(config)
    writer, recorder = writer_of(paths), Recorder(config)
    writer.append(captured_trace("t1", subject="ann"), asked("hello"), answered("x"))
    recorder.close()
    writer.append(captured_trace("t2", subject="ann"), asked("hello"), answered("x"))
    monkeypatch.setenv("MASTER", base64.b64encode(b"another" * 5)[:43].decode() + "=")
    with pytest.raises(KeyringError, match=r"privacy\.master_key does not open"):
        Recorder(config)
    monkeypatch.delenv("MASTER")
    with pytest.raises(ConfigError, match="variable MASTER is not set"):
        Recorder(config)
    monkeypatch.setenv("MASTER", ENVIRON["MASTER"])
    Recorder(config).close()
    assert [row["trace_id"] for row in spooled(paths)] == ["t1", "t2"]
