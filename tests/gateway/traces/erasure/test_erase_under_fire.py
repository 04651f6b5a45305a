"""An erasure that is killed, that meets running traffic, that finds rows encrypted or no store at all."""

from __future__ import annotations

import base64
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Config, load_config
from gateway.errors import TracetuneError
from gateway.paths import Paths, paths_of
from gateway.traces.erasure.erasures import ErasureList
from gateway.traces.recorder import Recorder
from gateway.traces.shipper import Shipper
from gateway.traces.store import Store
from gateway.traces.types import CapturedFeedback
from tests.gateway.traces.erasure.test_erase import (
    OTHER,
    PLANTED,
    bodies,
    files_with,
    forget,
    ids,
    place,
    stored,
)
from tests.gateway.traces.test_shipper import shipper_of, stored_ids, writer_of
from tests.support.capture import captured_trace, running
from tests.support.forked import forked, kill
from tests.support.store import write_config

__all__ = ["place"]
ROOT = Path(__file__).resolve().parents[4]
KILLS = 4


def run_erase(config_path: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "gateway.cli.root", "traces", "erase"),
            *(*arguments, "--config", str(config_path)),
        ],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
    )


def test_killed_at_any_moment_and_repeated_it_is_as_whole_as_if_nothing_had_been(
    place: tuple[Config, Paths, Store],
) -> None:
    config, paths, store = place
    seed = int(os.environ.get("SEED", time.time_ns() % 1_000_000))
    chance = random.Random(seed)
    for n in range(4):
        stored(store, f"gone{n}-", PLANTED)
        stored(store, f"kept{n}-", OTHER)
    recorder, writer = Recorder(config), writer_of(paths)
    for text, end in ((PLANTED, "gone"), (OTHER, "kept")):
        names = {"client": "web", "subject": f"{text}-jane", "session": f"{text}-s"}
        writer.append(captured_trace(f"spooled-{end}", **names), *bodies(text))
    recorder.step()
    before = ids(store)

    def one() -> None:
        with Store.connect(config, {}) as own:
            forget(config, own)

    for _ in range(KILLS):
        child = forked(one)
        time.sleep(chance.uniform(0.0, 0.8))
        kill(child)
    forget(config, store)

    assert files_with(PLANTED, paths.data, paths.segments) == [], f"SEED={seed}"
    kept = {table: [name for name in names if "kept" in name] for table, names in before.items()}
    assert ids(store) == kept, f"SEED={seed}"
    assert all(entry.until_us for entry in ErasureList(paths.state).entries())
    recorder.close()
    shipper = shipper_of(config, paths)
    while shipper.step():
        continue
    shipper.close()
    assert sorted(stored_ids(store)) == sorted([*kept["traces"], "spooled-kept"]), f"SEED={seed}"


def test_while_their_traffic_runs_nothing_that_began_before_its_end_is_left_and_no_other_row_is_lost(
    embedded_config_path: Path, place: tuple[Config, Paths, Store]
) -> None:
    config, paths, store = place
    stop = threading.Event()
    sent: dict[str, int] = {}

    def send() -> None:
        writer = writer_of(paths)
        number = 0
        while not stop.is_set():
            for text, end in ((PLANTED, "gone"), (OTHER, "kept")):
                trace_id, now_us = f"{end}-{number}", time.time_ns() // 1000
                names = {"client": "web", "subject": f"{text}-jane", "session": f"{text}-s"}
                if writer.append(captured_trace(trace_id, started_at_us=now_us, **names), *bodies(text)):
                    sent[trace_id] = now_us
            number += 1
            time.sleep(0.005)
        writer.close()

    sender = threading.Thread(target=send)
    with running("recorder", embedded_config_path), running("shipper", embedded_config_path):
        sender.start()
        _until(lambda: len(stored_ids(store)) >= 20)
        done = forget(config, store)
        stop.set()
        sender.join()
        kept = sorted(name for name in sent if name.startswith("kept"))
        _until(lambda: [name for name in sorted(stored_ids(store)) if name.startswith("kept")] == kept)
        _until(lambda: not list(paths.spool.glob("*.sealed")) and not list(paths.spool.glob("*.open")))

    assert done.traces > 0
    (entry,) = ErasureList(paths.state).entries()
    assert entry.until_us is not None
    later = {name for name, at in sent.items() if name.startswith("gone") and at > entry.until_us}
    assert {name for name in stored_ids(store) if name.startswith("gone")} == later


class _HangingStore(Store):
    """A store that takes an insert when `goes_on` is set, and says with `hangs` that it waits."""

    hangs: threading.Event
    goes_on: threading.Event

    def insert(self, table: str, rows: Any, *, token: str) -> None:
        self.hangs.set()
        assert self.goes_on.wait(30)
        super().insert(table, rows, token=token)


def test_while_the_store_hangs_the_recorder_goes_on_and_what_was_being_sent_is_erased_too(
    place: tuple[Config, Paths, Store],
) -> None:
    config, paths, store = place
    recorder, writer = Recorder(config), writer_of(paths)

    def send(trace_id: str, text: str) -> None:
        names = {"client": "web", "subject": f"{text}-jane", "session": f"{text}-s"}
        writer.append(captured_trace(trace_id, **names), *bodies(text))

    send("gone-0", PLANTED)
    send("kept-0", OTHER)
    recorder.step()
    recorder._seal()
    _HangingStore.hangs, _HangingStore.goes_on = threading.Event(), threading.Event()
    shipper = Shipper(paths.spool, paths.state, lambda: _HangingStore.connect(config), threading.Event())
    shipping = threading.Thread(target=shipper.step)
    forgetting = threading.Thread(target=forget, args=(config, store))
    recorded = threading.Event()

    def record() -> None:
        recorder.step()
        recorder._seal()
        recorded.set()

    recording = threading.Thread(target=record)
    try:
        shipping.start()
        assert _HangingStore.hangs.wait(10)
        forgetting.start()
        _until(lambda: ErasureList(paths.state).entries())
        send("gone-1", PLANTED)
        send("kept-1", OTHER)
        recording.start()
        assert recorded.wait(10), "the recorder waits for the store"
        assert forgetting.is_alive()
        assert stored_ids(store) == []
    finally:
        _HangingStore.goes_on.set()
        for thread in (shipping, forgetting, recording):
            thread.join(30)
    while shipper.step():
        continue
    shipper.close()
    recorder.close()

    assert sorted(stored_ids(store)) == ["kept-0", "kept-1"]
    assert files_with(PLANTED, paths.data, paths.segments) == []


def test_an_insert_that_its_sender_gave_up_is_waited_for_in_the_store(
    place: tuple[Config, Paths, Store],
) -> None:
    config, _, store = place
    stored(store, "kept", OTHER)
    names = f"'late' AS trace_id, 'web' AS client, '{PLANTED}-jane' AS subject"

    def insert() -> None:
        with Store.connect(config, {}) as own:
            slowly = "SELECT * FROM traces WHERE trace_id = 'kept0' AND sleepEachRow(1.5) = 0"
            own.command(f"INSERT INTO traces SELECT * REPLACE ({names}) FROM ({slowly})")

    def at_work() -> int:
        running = "SELECT count() AS n FROM system.processes WHERE query_kind = 'Insert'"
        return int(store.query(running)[0]["n"])

    inserting = threading.Thread(target=insert)
    inserting.start()
    _until(at_work)
    done = forget(config, store)
    inserting.join()

    assert done.traces == 1
    assert sorted(stored_ids(store)) == ["kept0", "kept1"]


def _until(condition: Any, within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("privacy", ["", "privacy: {encrypt: per_subject, master_key: {env: MASTER}}\n"])
def test_without_the_right_master_key_nothing_begins_and_the_persons_traffic_is_still_kept(
    place: tuple[Config, Paths, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, privacy: str
) -> None:
    from gateway.traces.encryption.keyring import Keyring
    from gateway.traces.encryption.master_key import LocalWrapper
    from gateway.traces.erasure.erase import Unlearnt, erase
    from gateway.traces.erasure.erasures import ErasureList
    from gateway.traces.erasure.whom import Whom

    _, paths, store = place
    Keyring.open(paths.keyring, LocalWrapper(b"m" * 32)).close()
    monkeypatch.setenv("MASTER", base64.b64encode(b"n" * 32).decode())
    path = tmp_path / "another.yaml"
    path.write_text(
        f'store: {{url: "embedded:{paths.data}"}}\n{privacy}'
        'upstreams: [{name: up, base_url: "http://127.0.0.1:9/v1", default: true}]\n'
        "routes: [{model: support-bot, variants: [{name: stable, upstream: up, model: m}]}]\n"
    )
    whom = Whom(kind="subject", name="jane", clients=["web"])

    with pytest.raises(TracetuneError, match="master_key"):
        erase(load_config(path), store, whom, unlearn=lambda _: Unlearnt())

    assert ErasureList(paths.state).entries() == []


def said_of_session(session: str, text: str) -> CapturedFeedback:
    return CapturedFeedback(
        feedback_id=f"on-{session}",
        trace_id=None,
        session=session,
        client="web",
        kind="comment",
        value=None,
        text=text,
        created_at_us=time.time_ns() // 1000,
    )


def test_of_encrypted_rows_the_key_goes_too_and_other_people_keep_theirs(
    place: tuple[Config, Paths, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import msgspec

    from gateway.traces.bodies.bodies import Bodies
    from gateway.traces.encryption.key_source import KeySource
    from gateway.traces.erasure.erase import Unlearnt, erase
    from gateway.traces.erasure.whom import Whom
    from gateway.traces.types import Trace

    plain, paths, store = place
    monkeypatch.setenv("MASTER", base64.b64encode(b"m" * 32).decode())
    path = tmp_path / "encrypted.yaml"
    path.write_text(
        f'store: {{url: "embedded:{paths.data}"}}\n'
        "privacy: {encrypt: per_subject, master_key: {env: MASTER}}\n"
        'upstreams: [{name: up, base_url: "http://127.0.0.1:9/v1", default: true}]\n'
        "routes: [{model: support-bot, variants: [{name: stable, upstream: up, model: m}]}]\n"
    )
    config = load_config(path)
    recorder, writer = Recorder(config), writer_of(paths)
    for name in ("jane", "john"):
        session = f"{name}-s"
        trace = captured_trace(f"of-{name}", client="web", subject=name, session=session)
        writer.append(trace, *bodies(PLANTED))
        writer.append(said_of_session(session, PLANTED))
    writer.close()
    recorder.step()
    recorder.close()
    shipper = shipper_of(plain, paths)
    while shipper.step():
        continue
    shipper.close()
    assert files_with(PLANTED, paths.data) == []
    backup = [msgspec.convert(row, Trace, strict=False) for row in store.query("SELECT * FROM traces")]

    whom = Whom(kind="subject", name="jane", clients=["web"])
    done = erase(config, store, whom, unlearn=lambda _: Unlearnt())

    # Hers, and that of what was said of her session as a whole.
    assert (done.keys, done.traces, done.feedback, stored_ids(store)) == (2, 1, 1, ["of-john"])
    readable = {
        row.trace_id: row.request
        for row in map(Bodies.of(KeySource.of(config), os.environ).lenient_trace, backup)
    }
    assert PLANTED in (readable["of-john"] or "")
    assert json.loads(readable["of-jane"] or "") == {"x_tracetune": {"erased": True}}


def test_without_its_store_it_says_so_and_has_done_nothing(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    path.write_text(path.read_text().replace(f"embedded:{tmp_path / 'data'}", "clickhouse://u@127.0.0.1:9/x"))
    config = load_config(path)
    paths_of(config).spool.mkdir(parents=True)

    result = run_erase(path, "--subject", "jane", "--yes")

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("tracetune: the store at 127.0.0.1:9 does not answer; ")
    assert not (paths_of(config).state / "erasures.json").exists()


def test_the_command_says_in_one_table_what_it_removed_and_as_json(
    embedded_config_path: Path, place: tuple[Config, Paths, Store]
) -> None:
    _, paths, store = place
    stored(store, "gone", PLANTED)
    stored(store, "kept", OTHER)

    shown = run_erase(embedded_config_path, "--subject", f"{PLANTED}-jane", "--yes")
    again = run_erase(embedded_config_path, "--subject", f"{PLANTED}-jane", "--yes", "--json")

    assert (shown.returncode, again.returncode) == (0, 0), shown.stderr + again.stderr
    lines = [line.rstrip().split("  ") for line in shown.stdout.splitlines()]
    table = {words[0]: words[-1].strip() for words in lines}
    assert table["traces in the store"] == table["judgments"] == table["feedback"] == "2"
    assert "Nothing was found" not in shown.stdout
    told = json.loads(again.stdout)
    assert told["traces"] == 0
    assert told["nothing"].startswith("it was erased before (er-")
    assert files_with(PLANTED, paths.data) == []
    assert stored_ids(store) == ["kept0", "kept1"]


def test_of_a_person_whom_nobody_knows_it_says_that_nothing_was_found_and_why(
    embedded_config_path: Path, place: tuple[Config, Paths, Store]
) -> None:
    _, _, store = place
    stored(store, "kept", OTHER)

    shown = run_erase(embedded_config_path, "--subject", "x", "--client", "wep", "--yes")

    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[-1] == (
        "Nothing was found of this subject: no client key 'wep' is in the configuration, and none has sent "
        "traces; there are '' (without a key), 'admin', 'web'. What is on its way is kept out."
    )
    assert len(stored_ids(store)) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "either --subject or --session"),
        (("--subject", "a", "--session", "b"), "either --subject or --session"),
        (("--subject", ""), "either --subject or --session"),
        (("--subject", "a"), "say --yes"),
    ],
)
def test_a_command_that_does_not_say_whom_or_was_not_confirmed_does_nothing(
    embedded_config_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    result = run_erase(embedded_config_path, *arguments)

    assert result.returncode == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
