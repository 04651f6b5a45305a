"""After an erasure nothing of the person is in any file, and everybody else's rows are whole."""

from __future__ import annotations

import contextlib
import functools
import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config import Config
from gateway.data_plane.headers import subject_of
from gateway.errors import UsageError
from gateway.paths import Paths
from gateway.traces.erasure.erase import Erased, Unlearnt, erase
from gateway.traces.erasure.erasures import KEPT_DAYS, ErasureList
from gateway.traces.erasure.whom import Whom
from gateway.traces.recorder import Recorder
from gateway.traces.stage import only_one
from gateway.traces.store import Store
from gateway.traces.types import Feedback, Judgment, Label
from tests.gateway.traces.test_shipper import data_directory, report, shipper_of, stored_ids, writer_of
from tests.support.capture import captured_feedback, captured_trace
from tests.support.store import a_trace

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
PLANTED = "plantedxyzzy"  # in every text of the subject
OTHER = "innocentplugh"


def bodies(text: str) -> tuple[bytes, list[bytes]]:
    request = {"messages": [{"role": "user", "content": f"I am {text}"}]}
    answer = {"choices": [{"message": {"role": "assistant", "content": f"hello {text}"}}]}
    return json.dumps(request).encode(), [json.dumps(answer).encode()]


def files_with(text: str, *folders: Path) -> list[Path]:
    """Files below *folders* in which *text* can be found, as it is."""
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [path for path in paths if text.encode() in path.read_bytes()]


def forget(config: Config, store: Store, name: str = f"{PLANTED}-jane", **whom: Any) -> Erased:
    values = {"kind": "subject", "name": name, "clients": ["", "web", "app"], **whom}
    return erase(config, store, Whom(**values), unlearn=lambda _: Unlearnt(), environ={})


def stored(store: Store, prefix: str, text: str, **changes: Any) -> None:
    """Two traces in parts of their own, with a judgment and feedback on each, that quote *text*."""
    for n in range(2):
        trace_id = f"{prefix}{n}"
        request, (response,) = bodies(text)
        row = a_trace(
            **{
                "trace_id": trace_id,
                "client": "web",
                "subject": f"{text}-jane",
                "session": f"{text}-s{n}",
                "request": request.decode(),
                "response": response.decode(),
                "tags": {"note": text},
                **changes,
            }
        )
        store.insert("traces", [row], token=trace_id)
        judged = Judgment(
            trace_id=trace_id, judge="j", version="v", score=1.0, reason=f"says {text}", judged_at=NOW
        )
        store.insert("judgments", [judged], token=trace_id)
        label = Label(trace_id=trace_id, who="ann", label=1, source="file", labelled_at=NOW)
        store.insert("labels", [label], token=trace_id)
        on_session = (
            {"trace_id": None, "session": row.session} if n else {"trace_id": trace_id, "session": None}
        )
        said = {"client": row.client, "kind": "comment", "value": None, "text": text, "created_at": NOW}
        store.insert(
            "feedback", [Feedback(feedback_id=f"f-{trace_id}", **on_session, **said)], token=trace_id
        )


def ids(store: Store) -> dict[str, list[str]]:
    keys = {"traces": "trace_id", "judgments": "trace_id", "labels": "trace_id", "feedback": "feedback_id"}
    return {
        table: [row["id"] for row in store.query(f"SELECT {key} AS id FROM {table} ORDER BY id")]
        for table, key in keys.items()
    }


@pytest.fixture
def place(embedded_config_path: Path, clean_store: Store) -> Iterator[tuple[Config, Paths, Store]]:
    with data_directory(embedded_config_path) as (config, paths):
        yield config, paths, clean_store


def test_rows_and_all_that_is_about_them_leave_the_disk_and_everybody_elses_stay_whole(
    place: tuple[Config, Paths, Store],
) -> None:
    config, paths, store = place
    stored(store, "gone", PLANTED)
    stored(store, "kept", OTHER)
    stored(store, "of-app", OTHER, client="app")
    before = [
        row for row in store.query("SELECT * FROM traces ORDER BY trace_id") if row["trace_id"][:4] != "gone"
    ]
    assert files_with(PLANTED, paths.data)

    done = forget(config, store)

    assert files_with(PLANTED, paths.data) == []
    assert (done.traces, done.judgments, done.feedback, done.clients) == (2, 2, 2, ["web"])
    assert store.query("SELECT * FROM traces ORDER BY trace_id") == before
    kept = ["kept0", "kept1", "of-app0", "of-app1"]
    assert ids(store) == {
        "traces": kept,
        "judgments": kept,
        "labels": kept,
        "feedback": [f"f-{name}" for name in kept],
    }


def test_an_erasure_that_is_repeated_finds_nothing(place: tuple[Config, Paths, Store]) -> None:
    config, _, store = place
    stored(store, "gone", PLANTED)

    first, second = forget(config, store), forget(config, store)

    assert (first.traces, second.traces, second.judgments, second.feedback) == (2, 0, 0, 0)


def test_a_name_that_redaction_has_replaced_is_found_by_what_a_person_types(
    place: tuple[Config, Paths, Store],
) -> None:
    config, paths, store = place
    recorder, shipper = Recorder(config), shipper_of(config, paths)
    writer = writer_of(paths)
    for name in ("jane@example.com", "john@example.com"):
        writer.append(captured_trace(f"of-{name[:4]}", client="web", subject=name), *bodies("x"))
    writer.close()
    recorder.step()
    recorder.close()
    while shipper.step():
        continue
    shipper.close()
    assert store.query("SELECT count() AS n FROM traces WHERE position(subject, 'jane') > 0")[0]["n"] == 0

    assert forget(config, store, "jane@example.com").traces == 1
    assert stored_ids(store) == ["of-john"]


def test_a_name_that_was_cut_is_found_by_all_of_it(place: tuple[Config, Paths, Store]) -> None:
    config, _, store = place
    name = PLANTED + "é" * 400
    stored(store, "gone", PLANTED, subject=subject_of(name.encode()), session="s")

    assert forget(config, store, name).traces == 2


def test_a_session_without_a_subject_is_erased_by_its_name(place: tuple[Config, Paths, Store]) -> None:
    config, paths, store = place
    stored(store, "gone", PLANTED, subject=None, session=PLANTED)
    stored(store, "kept", OTHER, subject=None)

    done = forget(config, store, PLANTED, kind="session")

    assert (done.traces, done.judgments, done.feedback) == (2, 2, 2)
    assert files_with(PLANTED, paths.data) == []
    assert stored_ids(store) == ["kept0", "kept1"]


def test_one_name_of_two_clients_may_be_two_people_and_is_refused_until_one_is_named(
    place: tuple[Config, Paths, Store],
) -> None:
    config, _, store = place
    stored(store, "web", PLANTED)
    stored(store, "app", PLANTED, client="app")

    with pytest.raises(UsageError, match=r"several clients know a subject of that name \('app', 'web'\)"):
        forget(config, store)
    assert len(stored_ids(store)) == 4

    assert forget(config, store, only=["app"]).traces == 2
    assert sorted(stored_ids(store)) == ["web0", "web1"]
    assert forget(config, store).traces == 2


def test_traces_without_a_subject_in_the_same_sessions_stay_and_are_told(
    place: tuple[Config, Paths, Store],
) -> None:
    config, _, store = place
    stored(store, "gone", PLANTED)
    store.insert("traces", [a_trace(trace_id="t", client="web", session=f"{PLANTED}-s0")], token="t")

    assert forget(config, store).unnamed == 1
    assert stored_ids(store) == ["t"]


@contextlib.contextmanager
def running_recorder(paths: Paths, recorder: Recorder) -> Iterator[None]:
    """*recorder* as its process has it: alone on the spool, one step after the other."""
    stop = threading.Event()

    def record() -> None:
        with only_one(paths.spool / "recorder.lock", "recorder"):
            while not stop.wait(0.02):
                recorder.step()

    thread = threading.Thread(target=record)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("recorder_runs", [True, False], ids=["recorder runs", "recorder was killed"])
def test_what_is_on_its_way_is_overwritten_rewritten_or_kept_out_wherever_it_is(
    place: tuple[Config, Paths, Store], recorder_runs: bool
) -> None:
    """In the quarantine, in a sealed file, in the open one, in shared memory taken and not yet taken."""
    config, paths, store = place
    recorder, shipper = Recorder(config), shipper_of(config, paths)
    writer = writer_of(paths)

    def captured(stage: str, **changes: Any) -> None:
        for text, end in ((PLANTED, "gone"), (OTHER, "kept")):
            names = {"client": "web", "subject": f"{text}-jane", "session": f"{text}-s"}
            writer.append(captured_trace(f"{stage}-{end}", **names, **changes), *bodies(text))
            about = {"trace_id": f"{stage}-{end}", "client": "web", "text": text}
            writer.append(captured_feedback(f"f-{stage}-{end}", **about))

    captured("quarantine", status=-1)
    recorder.step()
    recorder._seal()
    while shipper.step():
        continue
    captured("sealed")
    recorder.step()
    recorder._seal()
    captured("open")
    recorder.step()
    captured("memory")
    where = [paths.spool / "quarantine", paths.spool, paths.segments]
    assert all(files_with(PLANTED, folder) for folder in where)
    with running_recorder(paths, recorder) if recorder_runs else contextlib.nullcontext():
        done = forget(config, store)

    assert files_with(PLANTED, paths.data, paths.segments) == []
    assert files_with(OTHER, paths.spool, paths.segments)
    # Rows and feedback in three files; a recorder may have taken what was in memory just before. In memory, all
    # that the writer's segment still has.
    assert done.spool in ({5, 7} if recorder_runs else {5})
    assert done.memory == 8
    # What waited is stored as if nothing had been, once each.
    recorder = Recorder(config)
    recorder.step()
    recorder.close()
    while shipper.step():
        continue
    shipper.close()
    assert sorted(stored_ids(store)) == ["memory-kept", "open-kept", "sealed-kept"]
    assert files_with(PLANTED, paths.data, paths.segments) == []
    assert [path.name for path in (paths.spool / "quarantine").iterdir()]


def test_what_began_before_it_ended_is_kept_out_afterwards_and_what_begins_later_is_stored(
    place: tuple[Config, Paths, Store],
) -> None:
    config, paths, store = place
    stored(store, "gone", PLANTED)
    before_us = time.time_ns() // 1000
    forget(config, store)
    recorder, shipper, writer = Recorder(config), shipper_of(config, paths), writer_of(paths)
    jane = {"client": "web", "subject": f"{PLANTED}-jane"}
    writer.append(captured_trace("late", started_at_us=before_us, **jane), *bodies(PLANTED))
    writer.append(captured_feedback("about-late", trace_id="late", client="web", text=PLANTED))
    writer.append(captured_feedback("about-gone", trace_id="gone0", client="web", text=PLANTED))
    writer.append(captured_trace("new", **jane), *bodies("hello again"))
    writer.close()
    recorder.step()
    recorder.close()
    while shipper.step():
        continue
    shipper.close()

    assert ids(store) == {"traces": ["new"], "judgments": [], "labels": [], "feedback": []}


def test_the_list_is_finished_and_says_which_traces_went(place: tuple[Config, Paths, Store]) -> None:
    config, paths, store = place
    stored(store, "gone", PLANTED)

    done = forget(config, store)

    (entry,) = ErasureList(paths.state).entries()
    assert (entry.erasure, entry.traces) == (done.erasure, ["gone0", "gone1"])
    assert entry.until_us is not None


def test_a_person_who_is_erased_again_and_again_has_one_entry_and_is_kept_out_as_ever(
    place: tuple[Config, Paths, Store],
) -> None:
    config, paths, store = place
    sizes = []
    for n in range(5):
        if n < 2:
            stored(store, f"gone{n}-", PLANTED)
        forget(config, store)
        sizes.append((paths.state / "erasures.json").stat().st_size)

    assert len(set(sizes[2:])) == 1
    (entry,) = ErasureList(paths.state).entries()
    assert [one.traces for one in entry.former] == [["gone0-0", "gone0-1"], ["gone1-0", "gone1-1"]]
    recorder, writer = Recorder(config), writer_of(paths)
    for name in ("gone0-0", "gone1-1", "kept"):
        said_at_us = time.time_ns() // 1000
        writer.append(captured_feedback(f"on-{name}", trace_id=name, created_at_us=said_at_us))
    writer.close()
    recorder.step()
    recorder.close()
    assert report(paths, "recorder")["dropped"] == {"erased": 2}


def test_an_entry_is_kept_for_as_long_as_the_spool_may_reach_back(
    place: tuple[Config, Paths, Store],
) -> None:
    config, paths, store = place
    patient = msgspec.structs.replace(
        config, capture=msgspec.structs.replace(config.capture, max_age_days=KEPT_DAYS + 20)
    )
    day_ns = 24 * 3600 * 10**9
    later = KEPT_DAYS + 10
    for name, days, asked, left in (
        ("a", 0, patient, 1),
        ("b", later, patient, 2),
        ("c", later, config, 2),  # and "a" is dropped
    ):
        clock = functools.partial(int, time.time_ns() + days * day_ns)
        whom = Whom(kind="subject", name=name, clients=["web"])
        erase(asked, store, whom, unlearn=lambda _: Unlearnt(), environ={}, clock=clock)
        assert len(ErasureList(paths.state).entries()) == left


@pytest.mark.parametrize(
    ("whom", "why"),
    [
        ({"name": "unheard-of"}, "no trace names it; give it as the app sends it (x-tracetune-user, safety"),
        (
            {"name": "unheard-of", "kind": "session"},
            "no trace names it; give it as the app sends it (x-tracetune-sess",
        ),
        ({"name": f"{OTHER}-jane", "only": ["wep"]}, "no client key 'wep' is in the configuration"),
        ({"name": f"{OTHER}-jane", "only": ["app"]}, "of that name a subject of client 'web' has traces"),
        (
            {"name": f"{OTHER}-s0"},
            "of that name client 'web' has a session: erase it with --session in place",
        ),
        (
            {"name": f"{OTHER}-jane", "kind": "session"},
            "of that name client 'web' has a subject: erase it wit",
        ),
        (
            {"name": f" {OTHER.upper()}-Jane"},
            "client 'web' has a subject whose name differs in case or spaces",
        ),
    ],
    ids=["unknown", "unknown session", "client", "another's", "a session", "a subject", "spelt otherwise"],
)
def test_where_nothing_is_found_the_nearest_reason_is_told_and_what_is_on_its_way_is_kept_out(
    place: tuple[Config, Paths, Store], whom: dict[str, Any], why: str
) -> None:
    config, paths, store = place
    stored(store, "kept", OTHER)

    done = forget(config, store, **whom)

    assert (done.nothing or "").startswith(why)
    assert whom["name"] not in (done.nothing or "")
    (entry,) = ErasureList(paths.state).entries()
    assert entry.until_us is not None
    assert len(ids(store)["traces"]) == 2


def test_where_something_is_found_and_where_it_was_erased_before_the_result_says_so(
    place: tuple[Config, Paths, Store],
) -> None:
    config, _, store = place
    stored(store, "gone", PLANTED)

    first, second = forget(config, store), forget(config, store)

    assert first.nothing is None
    assert (second.nothing or "").startswith(f"it was erased before ({first.erasure}, 2")
