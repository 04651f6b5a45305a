"""Asks a store of ten million traces the questions that matter, and says what a trace costs on disk.

`python -m benchmarks.store_queries` starts an embedded store in a temporary folder, fills it with a month of
traffic (`benchmarks.store_traffic`), asks each question warm and writes one JSON to results/. Ten million
traces take some 5 GB of disk and, on two cores, a quarter of an hour; `--traces 200000` half a minute.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.machine import Machine, commit, this_machine
from benchmarks.quantiles import median, percentile
from benchmarks.store_traffic import DAYS, TEMPLATES, write_slice, write_templates
from gateway.config import load_config
from gateway.traces.lookup import time_bounds
from gateway.traces.store import Store, open_store

RESULTS = Path(__file__).resolve().parent / "results"
ROUNDS = 15
BOUND_MS = 200.0
BOUND_DISK = 0.25
MEMORY_BYTES = 4_000_000_000
UNTIL = dt.datetime(2026, 11, 25, tzinfo=dt.UTC)
US = 1_000_000
_CONFIGURATION = """
store: {{url: "embedded:{folder}", retention_days: 90, memory_bytes: {memory}}}
upstreams: [{{name: up, base_url: "http://127.0.0.1:9/v1", default: true}}]
routes: [{{model: route-1, variants: [{{name: stable, upstream: up, model: m}}]}}]
"""
_ROUTE, _FROM, _TO = "{route:String}", "{start:DateTime64(6, 'UTC')}", "{end:DateTime64(6, 'UTC')}"
QUESTIONS = {
    "variant comparison over a day": f"""
        SELECT variant, snapshot, count() AS traces, countIf(outcome != 'ok') AS failed,
               quantilesTDigest(0.5, 0.95, 0.99)(latency_ms) AS latency, avg(cost_usd) AS cost
        FROM traces WHERE route = {_ROUTE} AND started_at >= {_FROM} AND started_at < {_TO}
        GROUP BY variant, snapshot""",
    "variant comparison over a day, by minutes": f"""
        SELECT variant, snapshot, sum(m.traces) AS traces, sumIf(m.traces, outcome != 'ok') AS failed,
               quantilesTDigestMerge(0.5, 0.95, 0.99)(latency_ms) AS latency,
               sum(cost_usd) / sum(priced) AS cost
        FROM traces_by_minute AS m WHERE route = {_ROUTE} AND minute >= {_FROM} AND minute < {_TO}
        GROUP BY variant, snapshot""",
    "one trace by id, and the time in it": """
        SELECT * FROM traces WHERE trace_id = {id:String}
        AND started_at BETWEEN {first:DateTime64(6, 'UTC')} AND {last:DateTime64(6, 'UTC')}""",
    "one trace by id": "SELECT * FROM traces WHERE trace_id = {id:String}",
    "last 50 of a session of a month": """
        SELECT * FROM traces WHERE session = {session:String} ORDER BY started_at DESC LIMIT 50""",
    "last 50 of a session of minutes": """
        SELECT * FROM traces WHERE session = {short:String} ORDER BY started_at DESC LIMIT 50""",
    "error rate by minute for a week": f"""
        SELECT minute, sum(m.traces) AS traces, sumIf(m.traces, outcome != 'ok') / traces AS failed
        FROM traces_by_minute AS m
        WHERE route = {_ROUTE} AND minute >= {_FROM} - INTERVAL 6 DAY AND minute < {_TO}
        GROUP BY minute ORDER BY minute""",
    "error rate by minute for a week, all routes": f"""
        SELECT minute, sum(m.traces) AS traces, sumIf(m.traces, outcome != 'ok') / traces AS failed
        FROM traces_by_minute AS m WHERE minute >= {_FROM} - INTERVAL 6 DAY AND minute < {_TO}
        GROUP BY minute ORDER BY minute""",
}


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One question, asked ROUNDS times with other values each time; the first try of all is `cold_ms`.

    `cpu_ms` is what asking took of the processors, of client and store together: on a machine that does other
    things besides, it says what the time would be without them.
    """

    question: str
    rows: int
    cold_ms: float
    min_ms: float
    median_ms: float
    p95_ms: float
    cpu_ms: float
    reached: bool  # median within BOUND_MS


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """What a trace takes in `traces`, beside its two bodies as JSON; the views' tables in `derived_bytes`."""

    raw_bytes: float
    stored_bytes: float
    derived_bytes: float
    share: float
    reached: bool


class StoreResult(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one run."""

    commit: str
    began_at: str
    ended_at: str
    machine: Machine
    load_average: list[float]  # while the questions were asked: what else the machine did
    traces: int
    parts: int
    fill_s: float
    bound_ms: float
    answers: list[Answer]
    disk: Disk


def fill(store: Store, count: int) -> float:
    """A month of *count* traces; the seconds that it took."""
    began = time.monotonic()
    write_templates(store, min(TEMPLATES, count))
    slices = -(-count // TEMPLATES)
    length_us = DAYS * 86_400 * US // slices
    start_us = int(UNTIL.timestamp()) * US - DAYS * 86_400 * US
    for number in range(slices):
        rows = min(TEMPLATES, count - number * TEMPLATES)
        write_slice(store, number, start_us=start_us + number * length_us, length_us=length_us, rows=rows)
        print(
            f"{number + 1} of {slices} slices, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True
        )
    store.command("DROP TABLE templates")
    return time.monotonic() - began


def values_of(store: Store, round_: int, last_day: dt.datetime) -> dict[str, Any]:
    """What is asked about in round *round_*: another route, day, trace and session each time."""
    day = last_day - dt.timedelta(days=1 + round_)
    values = {"route": f"route-{round_ % 10}", "start": day, "end": day + dt.timedelta(days=1)}
    (found,) = store.query(
        "SELECT trace_id, session FROM traces "
        "WHERE route = {route:String} AND started_at >= {start:DateTime64(6)} AND session LIKE 's-%' "
        "ORDER BY started_at LIMIT 1 OFFSET 5",
        values,
    )
    first, last = time_bounds(found["trace_id"]) or (day, day)
    (month,) = store.query(
        "SELECT session FROM traces WHERE session LIKE 'user-%' AND route = {route:String} LIMIT 1",
        values,
    )
    return {
        **values,
        "id": found["trace_id"],
        "first": first,
        "last": last,
        "short": found["session"],
        "session": month["session"],
    }


def ask(store: Store, question: str, rounds: list[dict[str, Any]]) -> Answer:
    """*question* once cold, then once warm with the values of each of *rounds*."""
    times: list[float] = []
    spent: list[float] = []
    rows = 0
    for values in [rounds[0], *rounds]:
        used = {name: value for name, value in values.items() if f"{{{name}:" in QUESTIONS[question]}
        began, began_cpu = time.perf_counter(), time.process_time()
        rows = len(store.query(QUESTIONS[question], used))
        times.append((time.perf_counter() - began) * 1000)
        spent.append((time.process_time() - began_cpu) * 1000)
    warm = times[1:]
    return Answer(
        question=question,
        rows=rows,
        cold_ms=round(times[0], 1),
        min_ms=round(min(warm), 1),
        median_ms=round(median(warm), 1),
        p95_ms=round(percentile(warm, 95), 1),
        cpu_ms=round(median(spent[1:]), 1),
        reached=median(warm) <= BOUND_MS,
    )


def disk_of(store: Store) -> Disk:
    """Bytes per trace."""
    (rows,) = store.query("SELECT count() AS n, sum(length(request) + length(response)) AS raw FROM traces")
    parts = store.query(
        "SELECT table, sum(bytes_on_disk) AS bytes FROM system.parts "
        "WHERE active AND database = currentDatabase() GROUP BY table"
    )
    bytes_of = {row["table"]: row["bytes"] for row in parts}
    stored = bytes_of.pop("traces")
    return Disk(
        raw_bytes=round(rows["raw"] / rows["n"], 1),
        stored_bytes=round(stored / rows["n"], 1),
        derived_bytes=round(bytes_of.get("traces_by_minute", 0) / rows["n"], 1),
        share=round(stored / rows["raw"], 4),
        reached=stored / rows["raw"] <= BOUND_DISK,
    )


def run(folder: Path, count: int) -> StoreResult:
    """Fill a store in *folder* and ask it; one that is there is asked as it is."""
    machine, began_at = this_machine(), _now()
    path = folder / "tracetune.yaml"
    path.write_text(_CONFIGURATION.format(folder=folder / "data", memory=MEMORY_BYTES), encoding="utf-8")
    with open_store(load_config(path)) as store:
        there = int(store.query("SELECT count() AS n FROM traces")[0]["n"])
        fill_s = 0.0 if there else fill(store, count)
        store.command("SYSTEM STOP MERGES")
        (newest,) = store.query("SELECT toStartOfDay(max(started_at)) AS day FROM traces")
        rounds = [values_of(store, round_, newest["day"]) for round_ in range(ROUNDS)]
        answers = [ask(store, question, rounds) for question in QUESTIONS]
        (parts,) = store.query("SELECT count() AS n FROM system.parts WHERE active AND table = 'traces'")
        return StoreResult(
            commit=commit(),
            began_at=began_at,
            ended_at=_now(),
            machine=machine,
            load_average=[round(load, 2) for load in os.getloadavg()],
            traces=there or count,
            parts=int(parts["n"]),
            fill_s=round(fill_s, 1),
            bound_ms=BOUND_MS,
            answers=answers,
            disk=disk_of(store),
        )


def main(arguments: list[str]) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--traces", type=int, default=10_000_000, help="how many to ask among, 20000 at least"
    )
    parser.add_argument("--folder", type=Path, help="where the store is kept; default: a temporary one")
    parser.add_argument(
        "--name", default=f"{dt.datetime.now(dt.UTC):%Y-%m-%d}-store", help="of the JSON in results/"
    )
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="tracetune-store-"))
        )
        folder.mkdir(parents=True, exist_ok=True)
        result = run(folder, options.traces)
    for answer in result.answers:
        print(f"{answer.median_ms:8.1f} ms  (CPU {answer.cpu_ms}, p95 {answer.p95_ms})  {answer.question}")
    disk = result.disk
    print(f"{disk.stored_bytes} bytes on disk per trace of {disk.raw_bytes} bytes of JSON: {disk.share:.1%}")
    target = RESULTS / f"{options.name}.json"
    target.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    print(target)
    return 0


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
