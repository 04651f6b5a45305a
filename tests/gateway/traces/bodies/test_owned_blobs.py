"""An image that comes with every turn of a chat: stored once for its session, and gone with its person."""

from __future__ import annotations

import base64
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Config, load_config
from gateway.paths import Paths
from gateway.traces.bodies.blobs import SHARED_BY
from gateway.traces.delivery import deliver
from gateway.traces.erasure.blob_owners import owners_of_blob
from gateway.traces.erasure.erase import Erased, Unlearnt, erase
from gateway.traces.erasure.whom import Whom
from gateway.traces.recorder import Recorder
from gateway.traces.segments import SegmentWriter
from gateway.traces.shipper import Shipper
from gateway.traces.spool.quarantine import Entry, set_aside
from gateway.traces.spool.spool_file import SpoolContents
from gateway.traces.store import Store, open_store
from tests.gateway.traces.bodies.test_blobs import PRIVACY, row_of, spool_files, writer_of
from tests.gateway.traces.erasure.test_erase import files_with
from tests.gateway.traces.test_shipper import data_directory, shipper_of
from tests.support.capture import ANSWER, captured_trace

PEOPLE = ("jane", "john")


def image_of(name: str) -> str:
    """A picture that nobody else has, and that does not compress."""
    return f"data:image/png;base64,{base64.b64encode(random.Random(name).randbytes(3000)).decode()}"


def asked(*images: str) -> tuple[bytes, list[bytes]]:
    pieces = [{"type": "image_url", "image_url": {"url": image}} for image in images]
    body = {"model": "m", "messages": [{"role": "user", "content": pieces}]}
    return json.dumps(body).encode(), [json.dumps(ANSWER).encode()]


class Place:
    """A recorder and a shipper at work on a store."""

    def __init__(self, config: Config, paths: Paths, store: Store) -> None:
        self.config, self.paths, self.store = config, paths, store
        self.writer: SegmentWriter = writer_of(paths)
        self.recorder = Recorder(config)
        self.shipper: Shipper = shipper_of(config, paths)
        self._turns = 0

    def turn(self, person: str, session: str = "", *images: str, subject: bool = True) -> str:
        """A request of *person* with a picture, and its trace."""
        trace_id = f"t{self._turns}"
        self._turns += 1
        names = {"subject": person if subject else None, "session": session or f"{person}-s", "client": "web"}
        self.writer.append(captured_trace(trace_id, **names), *asked(*(images or (image_of(person),))))
        return trace_id

    def record(self) -> list[SpoolContents]:
        self.recorder.step()
        self.recorder._seal()
        return spool_files(self.paths)

    def ship(self) -> None:
        while self.shipper.step():
            continue
        self.recorder._housekeeping_at = 0.0
        self.recorder.step()

    def blobs(self) -> list[str]:
        return [row["blob"] for row in self.store.query("SELECT blob FROM blobs ORDER BY blob")]

    def request(self, trace_id: str) -> Any:
        row = self.store.query("SELECT request FROM traces WHERE trace_id = {id:String}", {"id": trace_id})[0]
        with open_store(self.config) as reading:
            return json.loads(reading.bodies.body(row["request"], f"traces.request of {trace_id}"))

    def forget(self, name: str = "jane", kind: Any = "subject") -> Erased:
        whom = Whom(kind=kind, name=name, clients=["web"])
        return erase(self.config, self.store, whom, unlearn=lambda _: Unlearnt())


@pytest.fixture(params=["", PRIVACY], ids=["plain", "encrypted"])
def place(
    request: pytest.FixtureRequest,
    embedded_config_path: Path,
    clean_store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Place]:
    monkeypatch.setenv("MASTER", base64.b64encode(b"m" * 32).decode())
    with data_directory(embedded_config_path) as (_, paths):
        path = tmp_path / "asked.yaml"
        path.write_text(embedded_config_path.read_text() + request.param)
        place = Place(load_config(path), paths, clean_store)
        yield place
        place.recorder.close()
        place.shipper.close()


def blobs_in(contents: list[SpoolContents]) -> list[str]:
    return [row_of(record)["blob"] for one in contents for record in one.records if record.table == "blobs"]


def test_an_image_of_every_turn_is_stored_once_for_its_session_and_read_in_each(place: Place) -> None:
    turns = [place.turn("jane") for _ in range(6)]
    place.record()
    place.ship()
    turns += [place.turn("jane") for _ in range(2)]

    assert blobs_in(place.record()) == []  # the store has it
    place.ship()
    (blob,) = place.blobs()
    assert len(owners_of_blob(blob)) == 2
    sizes = [len(row["request"]) for row in place.store.query("SELECT request FROM traces ORDER BY trace_id")]
    assert max(sizes[1:]) < sizes[0] / 2
    assert all(place.request(turn) == json.loads(asked(image_of("jane"))[0]) for turn in turns)


def test_another_session_another_person_and_what_comes_once_do_not_share_it(place: Place) -> None:
    picture = image_of("x")
    for person, session in (("jane", "a"), ("jane", "b"), ("john", "c")):
        for _ in range(2):
            place.turn(person, session, picture)
    place.turn("jane", "a", image_of("once"))
    blobs = blobs_in(place.record())
    assert len(blobs) == len(set(blobs)) == 3
    assert all(owners_of_blob(blob) for blob in blobs)


def test_what_several_people_have_is_everybodys_as_before(place: Place) -> None:
    for n in range(SHARED_BY + 1):
        place.turn(f"p{n}", "", image_of("x"))
    blobs = blobs_in(place.record())
    shared = [blob for blob in blobs if not owners_of_blob(blob)]
    assert (len(shared), len(blobs)) == ((1, 1) if place.config.privacy.encrypt == "none" else (0, 0))


@pytest.mark.parametrize("kind", ["subject", "session"])
def test_it_goes_with_its_person_from_store_spool_and_quarantine_and_other_peoples_stay(
    place: Place, kind: str
) -> None:
    turns = {person: [place.turn(person) for _ in range(3)] for person in PEOPLE}
    place.record()
    place.ship()
    assert len(place.blobs()) == 2
    for person in PEOPLE:
        for _ in range(2):
            place.turn(person, "", image_of(f"spooled-{person}"))
    contents = place.record()
    rows = [row_of(record) for one in contents for record in one.records if record.table == "blobs"]
    assert len(rows) == 2
    entries = [Entry(reason="r", table="blobs", row=row) for row in rows]
    set_aside(place.paths.spool, "0-a", entries, max_bytes=1 << 30)

    done = place.forget("jane" if kind == "subject" else "jane-s", kind)

    assert (done.traces, done.blobs) == (3, 1)
    if place.config.privacy.encrypt == "none":
        for name in ("jane", "spooled-jane"):
            assert files_with(image_of(name)[:60], place.paths.data) == []
    kept = {row["blob"] for row in rows} & set(blobs_in(spool_files(place.paths)))
    assert len(kept) == 1
    lines = [
        json.loads(line) for line in (place.paths.spool / "quarantine/0-a.jsonl").read_text().splitlines()
    ]
    assert {line["row"]["blob"] for line in lines} == kept
    place.ship()
    assert len(place.blobs()) == 2  # both of them john's
    assert all(place.request(turn) == json.loads(asked(image_of("john"))[0]) for turn in turns["john"])


def test_who_was_erased_and_comes_back_with_it_has_it_stored_anew(place: Place) -> None:
    for _ in range(3):
        place.turn("jane")
    place.record()
    place.ship()
    place.forget()

    turns = [place.turn("jane") for _ in range(3)]
    # As time goes by: what begins now began after the erasure's end.
    contents = place.record()
    assert contents
    place.ship()

    assert len(place.blobs()) == 1
    assert [place.request(turn) for turn in turns] == [json.loads(asked(image_of("jane"))[0])] * 3


def test_an_erasure_leaves_what_others_share_and_what_looks_like_an_owner_alone(place: Place) -> None:
    used_until = place.store.query("SELECT now() AS n")[0]["n"]
    rows = [
        {"blob": name, "kind": "system", "content": "{}", "used_until": used_until}
        for name in ("0" * 32, "f" * 64)
    ]
    assert deliver(place.store, "blobs", rows, os.urandom(8).hex(), suspect=False) == []
    place.forget()
    assert place.blobs() == ["0" * 32, "f" * 64]
