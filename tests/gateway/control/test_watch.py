"""The watch of one worker, with real files and a capture memory that refuses."""

from __future__ import annotations

import fcntl
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from gateway import overlay as layer
from gateway import overlay_file
from gateway.config.load import load_config
from gateway.metrics import WorkerMetrics
from gateway.overlay import Overlay, OverlayEntry
from gateway.paths import Paths
from gateway.rollouts import Decision, IllegalTransitionError
from gateway.state import State
from gateway.traces.types import Captured
from gateway.watch import Watch, load_table
from tests.support.control_gateway import YAML


class Writer:
    """A capture memory with or without room."""

    def __init__(self) -> None:
        self.dropped: dict[str, int] = {}
        self.room = True
        self.kept: list[Captured] = []

    def append(self, captured: Captured, request: bytes = b"", response: Sequence[bytes] = ()) -> bool:
        del request, response
        if self.room:
            self.kept.append(captured)
        return self.room

    def full(self) -> bool:
        return not self.room

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def shared_memory(tmp_path: Path) -> Iterator[None]:
    """Nothing is left of what a state keeps there."""
    yield
    shutil.rmtree(Paths(tmp_path / "data", tmp_path).segments, ignore_errors=True)


def a_state(directory: Path, writer: Writer, index: int = 0) -> State:
    path = directory / "tracetune.yaml"
    if not path.exists():
        path.write_text(YAML.format(port=9))
    config = load_config(path)
    return State(
        config_path=path,
        config=config,
        table=load_table(config),
        salt=b"s" * 32,
        writer=writer,
        metrics=WorkerMetrics(directory / f"metrics-{index}-{id(writer)}", "w"),
        index=index,
        environ={},
    )


def started(state: State, snapshot: str = "bot-1") -> Callable[[Overlay], OverlayEntry]:
    def change(overlay: Overlay) -> OverlayEntry:
        entry = layer.entry_of(overlay, state.live.config, "bot")
        assert entry is not None
        decision = Decision(at_us=1, who="test", why="a test")
        call = {"rollout": f"ro-{snapshot}", "snapshot": snapshot, "upstream": "local", "policy": {}}
        return layer.start(entry, decision, share=0.5, **call)

    return change


async def test_an_event_that_found_no_room_is_recorded_once_there_is_some(tmp_path: Path):
    writer = Writer()
    watch = Watch(state := a_state(tmp_path, writer))
    await watch.refresh()
    writer.room = False
    await watch.decide(started(state))
    assert writer.kept == []
    assert state.live.table.routes["bot"].version == 1  # the decision does not wait for its record
    writer.room = True
    watch._record([])
    watch._record([])
    assert [event.event for event in writer.kept] == ["started"]


async def test_a_decision_saved_before_a_kill_is_recorded_at_the_next_start_of_any_worker(tmp_path: Path):
    lost = Writer()
    lost.room = False
    watch = Watch(state := a_state(tmp_path, lost))
    await watch.refresh()
    await watch.decide(started(state))
    for index in (0, 1):
        writer = Writer()
        await Watch(a_state(tmp_path, writer, index)).refresh()
        assert [(event.event, event.version) for event in writer.kept] == [("started", 1)]


async def test_workers_see_each_others_decisions_and_a_removed_overlay(tmp_path: Path):
    one, other = a_state(tmp_path, Writer()), a_state(tmp_path, Writer(), 1)
    watches = [Watch(one), Watch(other)]
    for watch in watches:
        await watch.refresh()
    await watches[0].decide(started(one))
    await watches[1].refresh()
    assert one.live.table == other.live.table
    with pytest.raises(IllegalTransitionError):
        await watches[1].decide(started(other, "bot-2"))
    (tmp_path / "data/state/overlay.json").unlink()
    for watch in watches:
        await watch.refresh()
    assert one.live.table.routes["bot"].rollout is None
    assert one.live.table == other.live.table


async def test_a_missing_variable_leaves_the_rollout_and_the_table_as_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    watch = Watch(state := a_state(tmp_path, Writer()))
    await watch.refresh()
    await watch.decide(started(state))
    before, live = state.live.table, state.live
    text = state.config_path.read_text()
    edited = text.replace("model: big}]\n    fallbacks", "model: bigger}]\n    fallbacks")
    edited = edited.replace("- name: openai", "- name: openai\n    api_key: {env: NOT_SET_ANYWHERE}")
    state.config_path.write_text(edited)
    for _ in range(3):
        await watch.refresh()
    assert "NOT_SET_ANYWHERE is not set" in caplog.text
    assert caplog.text.count("stays in force") == 1
    assert state.live is live
    assert "configuration reloaded" not in caplog.text
    state.config_path.write_text(text)
    for _ in range(3):
        await watch.refresh()
    assert state.live.table == before


async def test_a_stuck_writer_at_the_start_is_one_line_and_the_worker_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(overlay_file, "LOCK_WAIT_S", 0.05)
    watch = Watch(state := a_state(tmp_path, Writer()))
    (tmp_path / "data/state").mkdir(parents=True)
    with (tmp_path / "data/state/overlay.lock").open("w") as stuck:
        fcntl.flock(stuck, fcntl.LOCK_EX)
        await watch.begin()
    assert [record.message.count("has been held") for record in caplog.records] == [1]
    assert state.live.table.routes["bot"].stable.name == "stable"
    await watch.refresh()
    await watch.decide(started(state))


async def test_a_file_that_is_still_being_written_is_not_taken(tmp_path: Path):
    watch = Watch(state := a_state(tmp_path, Writer()))
    await watch.refresh()
    before, text = state.live.table, state.config_path.read_text()
    second = text[text.index("  - model: bot") :].replace("bot", "desk")
    state.config_path.write_text(text.replace("model: big}]", "model: half}]"))  # valid, and not yet all
    await watch.refresh()
    assert state.live.table == before
    state.config_path.write_text(text + second)
    await watch.refresh()
    assert state.live.table == before
    await watch.refresh()
    assert set(state.live.table.routes) == {"bot", "desk"}


async def test_what_needs_a_restart_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    watch = Watch(state := a_state(tmp_path, Writer()))
    await watch.refresh()
    state.config_path.write_text(state.config_path.read_text().replace("port: 9", "port: 10"))
    for _ in range(3):
        await watch.refresh()
    assert "listen changed in the configuration: that takes effect at a restart" in caplog.text
