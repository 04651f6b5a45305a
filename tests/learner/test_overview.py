"""`tracetune status` tells the truth, and the command that moves a route on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from gateway.config import Config, load_config
from gateway.paths import paths_of
from gateway.traces.store import Store
from gateway.traces.types import Judgment
from judges.evaluate import judgment_of
from judges.wire import Answer
from learner.cli.status import shown_usd, status, what_runs
from learner.overview import RouteLine, overview
from learner.troubles import pace, troubles
from tests.support.judging import add, some_traces

YAML = """
store: {{url: "embedded:{data}"}}
capture: {{spool: "{directory}/spool"}}
upstreams: [{{name: up, base_url: "http://127.0.0.1:9/v1", default: true}}]
routes: [{{model: support-bot, variants: [{{name: stable, upstream: up, model: m}}]}}]
judges: [{{name: good, path: "judge.py:good"}}]
"""
Write = Callable[[str], Config]


@pytest.fixture
def write(tmp_path: Path, embedded_config: Config) -> Write:
    """A configuration over the session's store, with a judge of this source."""

    def config(judge: str) -> Config:
        (tmp_path / "judge.py").write_text(judge)
        path = tmp_path / "tracetune.yaml"
        path.write_text(YAML.format(data=paths_of(embedded_config).data, directory=tmp_path))
        return load_config(path)

    return config


def supervised(config: Config, command: str, *names: str) -> None:
    """As if a supervisor of this data directory ran these processes: this process stands for it."""
    content = {
        "supervisor": os.getpid(),
        "command": command,
        "started_at": 0,
        "url": "http://127.0.0.1:8380",
        "processes": [{"name": name, "pid": 1, "restarts": 0} for name in names],
    }
    path = paths_of(config).state / "processes.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(content))


def line_of(config: Config, store: Store) -> RouteLine:
    (line,) = overview(config, store).routes
    return line


def called(directory: Path, *options: str) -> str:
    """What `tracetune status` prints."""
    result = CliRunner().invoke(status, ["--config", str(directory / "tracetune.yaml"), *options])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_broken_judge_is_named_with_its_file_its_reason_and_the_remedy(write: Write, clean_store: Store):
    config = write("import nowhere\n")
    add(clean_store, *some_traces(2))
    found = overview(config, clean_store)
    (broken,) = found.broken_judges
    judge = config.judges[0]
    assert broken.judge == "good"
    assert broken.why.startswith(f"{judge.file}:1: does not import: ModuleNotFoundError")
    assert broken.why.endswith("correct that line")
    (line,) = found.routes
    assert line.has == "captured; nothing judged yet; judge good is broken"
    assert line.next == f"tracetune judge try {judge.path}"


def test_what_nobody_judged_yet_is_not_called_judged(write: Write, clean_store: Store):
    config = write("def good(trace): return True\n")
    add(clean_store, *some_traces(2))
    assert line_of(config, clean_store).has == "captured; nothing judged yet"


def test_what_judging_cost_is_a_figure_of_its_own(write: Write, clean_store: Store):
    config = write("def good(trace): return True\n")
    traces = some_traces(3)
    add(clean_store, *traces)
    assert line_of(config, clean_store).judging_usd is None

    def judgment(number: int, cost_usd: float | None) -> Judgment:
        row = judgment_of(
            "good", "v", traces[number], 0, Answer(score=1.0, reason="", seconds=0.1, cost_usd=cost_usd)
        )
        return msgspec.structs.replace(row, started_at=datetime.now(UTC))

    rows = [judgment(0, 0.25), judgment(1, 0.5), judgment(2, None)]
    clean_store.insert("judgments", rows, token="j")
    line = line_of(config, clean_store)
    assert line.judging_usd == 0.75
    assert shown_usd(line) == "$0.7500"
    assert shown_usd(msgspec.structs.replace(line, judging_usd=None)) == "—"


@pytest.fixture
def quiet(write: Write) -> Iterator[Config]:
    """A configuration with a judge, in which nothing runs before or after."""
    config = write("def good(trace): return True\n")
    yield config
    (paths_of(config).state / "processes.json").unlink(missing_ok=True)


def test_without_traffic_the_next_step_is_to_run_and_then_to_send(quiet: Config, clean_store: Store):
    line = line_of(quiet, clean_store)
    assert (line.has, line.next) == ("no traffic in 24 hours", "tracetune up")
    supervised(quiet, "up", "store", "gateway-0")
    expected = "send a request: base_url=http://127.0.0.1:8380/v1, model support-bot"
    assert line_of(quiet, clean_store).next == expected


def test_imported_traces_are_no_traffic(quiet: Config, clean_store: Store):
    add(clean_store, *some_traces(2, imported=True))
    assert line_of(quiet, clean_store).has == "no traffic in 24 hours"


def test_imported_traces_are_counted_apart_from_what_was_captured(
    quiet: Config, clean_store: Store, tmp_path: Path
):
    now = datetime.now(UTC)
    captured = some_traces(3)
    imported = some_traces(2, imported=True) + some_traces(
        1, imported=True, started_at=now - timedelta(days=40)
    )
    add(clean_store, *captured, *imported)
    verdict = Judgment(trace_id="", judge="good", version="1", score=1.0, reason="", judged_at=now)
    for trace in (captured[0], *imported):
        clean_store.insert(
            "judgments", [msgspec.structs.replace(verdict, trace_id=trace.trace_id)], token=trace.trace_id
        )

    line = line_of(quiet, clean_store)

    assert (line.traces, line.judged, line.imported) == (3, 1, 3)
    (said,) = json.loads(called(tmp_path, "--json"))["routes"]
    assert (said["traces"], said["judged"], said["imported"]) == (3, 1, 3)
    assert "imported" in called(tmp_path)


def test_without_imports_there_is_no_column_of_them(quiet: Config, clean_store: Store, tmp_path: Path):
    add(clean_store, *some_traces(1))

    assert "imported" not in called(tmp_path)
    assert json.loads(called(tmp_path, "--json"))["routes"][0]["imported"] == 0


def test_a_route_whose_every_answer_failed_is_not_sent_to_its_judge(quiet: Config, clean_store: Store):
    add(clean_store, *some_traces(2, outcome="upstream_error"))
    line = line_of(quiet, clean_store)
    assert (line.has, line.next) == ("every answer failed", "tracetune traces tail")


def test_the_gateway_alone_is_not_called_up(quiet: Config, clean_store: Store):
    supervised(quiet, "gateway", "recorder", "gateway-0")
    found = overview(quiet, clean_store)
    assert (found.running, found.command) == (True, "gateway")
    said = "gateway: 2 processes; nothing is judged or learnt until `tracetune up`"
    assert what_runs(found) == said
    supervised(quiet, "up", "store", "gateway-0")
    assert what_runs(overview(quiet, clean_store)) == "up: 2 processes"


def test_traces_that_wait_and_a_disk_without_room_are_said(quiet: Config):
    spool = paths_of(quiet).spool
    spool.mkdir(exist_ok=True)
    assert list(troubles(quiet, None, time.time())) == []
    (spool / "1.sealed").write_bytes(b"x" * 2_000_000)
    now = time.time()
    waits = f"2.0 MB of captured traces wait in {spool}; "
    assert list(troubles(quiet, None, now)) == [f"{waits}`tracetune up` stores them"]
    assert list(troubles(quiet, "up", now)) == [], "on their way"
    late = [f"{waits}they go to the store as soon as it takes them"]
    assert list(troubles(quiet, "up", now + 60)) == late
    assert list(troubles(quiet, "gateway", now + 60)) == [f"{waits}`tracetune up` stores them"]
    greedy = msgspec.structs.replace(quiet, capture=msgspec.structs.replace(quiet.capture, max_bytes=1 << 60))
    (disk, _) = troubles(greedy, None, now)
    assert disk.startswith("disk: ")
    assert disk.endswith("free some, or lower it")


def test_traces_wait_since_the_first_of_their_file_was_written(quiet: Config):
    spool = paths_of(quiet).spool
    spool.mkdir(exist_ok=True)
    first_at = time.time() - 90
    (spool / f"{int(first_at * 1e9):019d}-a.open").write_bytes(b"x" * 1_000_000)

    (said,) = troubles(quiet, "up", time.time())

    assert said.startswith(f"1.0 MB of captured traces wait in {spool}; ")
    assert list(troubles(quiet, "up", first_at + 5)) == [], "on their way"


def test_what_recorder_and_shipper_complain_of_is_said_while_it_is_news(quiet: Config):
    path = paths_of(quiet).state / "recorder.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    now = time.time()
    path.write_bytes(msgspec.json.encode({"updated_at": now, "errors": "no space", "dropped": {"full": 3}}))
    try:
        dropped = "recorder: 3 traces were dropped: full"
        assert list(troubles(quiet, "up", now)) == ["recorder: no space", dropped]
        assert list(troubles(quiet, "up", now + 60)) == [dropped]
    finally:
        path.unlink()


def test_how_capture_keeps_up_is_said_while_both_stages_report(quiet: Config):
    paths = paths_of(quiet)
    paths.state.mkdir(parents=True, exist_ok=True)
    now = time.time()
    recorder, shipper = paths.state / "recorder.json", paths.state / "shipper.json"
    assert pace(paths, now) is None
    recorder.write_bytes(msgspec.json.encode({"updated_at": now, "oldest_age_s": 12.0}))
    shipper.write_bytes(msgspec.json.encode({"updated_at": now, "written_per_s": 41.5, "oldest_age_s": 0.5}))
    try:
        assert (
            pace(paths, now) == "capture: 41.5 rows a second; the oldest row that is not stored is 12.0 s old"
        )
        recorder.write_bytes(msgspec.json.encode({"updated_at": now}))
        shipper.write_bytes(msgspec.json.encode({"updated_at": now}))
        assert pace(paths, now) == "capture: 0.0 rows a second; all rows are stored"
        assert pace(paths, now + 60) is None
    finally:
        recorder.unlink()
        shipper.unlink()
