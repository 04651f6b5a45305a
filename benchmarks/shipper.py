"""`python -m benchmarks.shipper`: rows a second from spool files into the embedded store, with its views.

The spool is filled first, with rows of 3 KB that differ; then one shipper takes them to a store in a process
of its own. Beside its pace stand the CPU of both, and what the store makes of the same rows alone: insert
after insert with everything written down already.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import msgspec
import yaml
from clickhouse_connect.driver import options as driver_options

from benchmarks.machine import Machine, commit, this_machine
from benchmarks.ours import REPOSITORY, configuration
from benchmarks.process_cpu import cpu_s
from benchmarks.processes import interruptible, started
from benchmarks.result_file import tell
from benchmarks.types import BenchmarkError
from benchmarks.work_folder import CONFIGURATION, work_folder
from gateway.config import Config
from gateway.config.load import load_config
from gateway.errors import TracetuneError
from gateway.paths import paths_of
from gateway.traces.endpoint import read_endpoint, read_token
from gateway.traces.shipper import Shipper, open_migrated
from gateway.traces.spool.spool import Spool
from gateway.traces.spool.spool_file import encode_record
from gateway.traces.store import Store
from gateway.traces.target import EMBEDDED_DATABASE
from gateway.traces.types import Trace

ROW_BYTES = 3000
WORDS = 4000
GROUP = 250
GROUPS_PER_FILE = 10  # about spool.SPOOL_SEGMENT_BYTES, as files are while the store is behind
STORE_WITHIN_S = 60.0
LIMIT_S = 1800.0


class ShipperResult(msgspec.Struct, frozen=True, kw_only=True):
    """A whole result; the JSON is exactly this. CPU is user + system time, per row."""

    commit: str
    began_at: str
    machine: Machine
    rows: int
    row_bytes: int  # in the spool
    files: int
    seconds: float
    rows_per_s: float
    shipper_cpu_us: float
    store_cpu_us: float
    store_alone_rows_per_s: float
    store_alone_cpu_us: float


def rows(count: int, seed: int) -> list[Trace]:
    """*count* traces of about ROW_BYTES of ordinary words, spread over a few minutes and variants."""
    chance = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(chance.choices(letters, k=chance.randint(2, 9))) for _ in range(WORDS)]
    began = datetime.now(UTC) - timedelta(minutes=10)

    def text(size: int) -> str:
        return " ".join(chance.choices(words, k=size // 6))

    def trace(number: int) -> Trace:
        request = {"model": "bot", "messages": [{"role": "user", "content": text(ROW_BYTES // 2)}]}
        message = {"role": "assistant", "content": text(ROW_BYTES // 4)}
        usage = {"prompt_tokens": 250, "completion_tokens": 150, "total_tokens": 400}
        return Trace(
            trace_id=f"0199c0de-{number:012x}-{chance.getrandbits(48):012x}",
            started_at=began + timedelta(seconds=number / 100),
            route="bot",
            variant=chance.choice(["stable", "canary"]),
            snapshot=None,
            rollout=None,
            propensity=0.9,
            client="benchmark",
            session=f"session-{number % 500}",
            subject=None,
            upstream="fixed",
            model="served",
            endpoint="/v1/chat/completions",
            stream=number % 2 == 0,
            status=200,
            outcome="ok",
            finish_reason="stop",
            attempts=json.dumps([{"upstream": "fixed", "server": "http://127.0.0.1:1/v1", "status": 200}]),
            latency_ms=chance.uniform(100, 4000),
            ttft_ms=chance.uniform(50, 400),
            tokens_in=250,
            tokens_cached=0,
            tokens_out=150,
            usage=json.dumps(usage),
            cost_usd=0.0001,
            request=json.dumps(request),
            response=json.dumps({"choices": [{"index": 0, "message": message}], "usage": usage}),
            tags={"app": "benchmark"},
            table_hash="0123456789abcdef",
            traceparent=None,
        )

    return [trace(number) for number in range(count)]


def fill(config: Config, traces: list[Trace]) -> tuple[int, int]:
    """Put *traces* into sealed files, as the recorder does while the store is away: files, bytes."""
    spool = Spool(paths_of(config).spool, fsync="never", max_bytes=config.capture.max_bytes)
    size = 0
    for first in range(0, len(traces), GROUP):
        payloads = [
            encode_record("w-0.seg", first + number, first + number, "traces", trace)
            for number, trace in enumerate(traces[first : first + GROUP], 1)
        ]
        size += sum(map(len, payloads))
        spool.append(payloads)
        if (first // GROUP + 1) % GROUPS_PER_FILE == 0:
            spool.seal()
    spool.seal()
    return len(spool.sealed()), size


def ship(config: Config) -> float:
    """Ship all that lies in the spool; the seconds that it took."""
    paths = paths_of(config)
    shipper = Shipper(paths.spool, paths.state, lambda: open_migrated(config), threading.Event())
    shipper.greet()
    began = time.monotonic()
    while shipper.step():
        pass
    took = time.monotonic() - began
    shipper.close()
    return took


def insert_alone(config: Config) -> tuple[int, float]:
    """Rows and seconds of the store alone: the rows that it has, written down, taken once more."""
    directory = paths_of(config).store
    endpoint = read_endpoint(directory)
    assert endpoint is not None, "it runs"
    headers = {"x-clickhouse-key": read_token(directory)}
    with httpx.Client(base_url=endpoint.url, headers=headers, timeout=LIMIT_S, trust_env=False) as client:

        def ask(query: str, content: bytes = b"", **settings: str) -> bytes:
            parameters = {"database": EMBEDDED_DATABASE, "query": query, **settings}
            answer = client.post("/", params=parameters, content=content)
            if answer.status_code != 200:
                raise BenchmarkError(f"the store refused: {answer.text[:200]}")
            return answer.content

        count = int(ask("SELECT count() FROM traces FORMAT TabSeparated"))
        size = GROUP * GROUPS_PER_FILE
        blocks = [
            ask(f"SELECT * FROM traces ORDER BY trace_id LIMIT {size} OFFSET {first} FORMAT Native")
            for first in range(0, count, size)
        ]
        ask("TRUNCATE TABLE traces")
        began = time.monotonic()
        for number, block in enumerate(blocks):
            ask("INSERT INTO traces FORMAT Native", block, insert_deduplication_token=f"alone-{number}")
        return count, time.monotonic() - began


def measure(folder: Path, count: int, seed: int) -> ShipperResult:
    """Ship *count* rows, and give them to the store alone. Raises BenchmarkError, TracetuneError."""
    began = datetime.now(UTC)
    machine = this_machine()
    path = folder / CONFIGURATION
    path.write_text(yaml.safe_dump(configuration(folder, 1, 1, capture="full", workers=1)))
    config = load_config(path)
    files, size = fill(config, rows(count, seed))
    command = [sys.executable, "-m", "gateway.traces.embedded", "--config", str(path)]
    env = {"PYTHONPATH": str(REPOSITORY)}
    with started(command, core=None, log=folder / "store.log", env=env, cwd=folder) as process:
        Store.connect(config, {}, wait_s=STORE_WITHIN_S).close()
        own_s, store_s = time.process_time(), cpu_s([process.pid])
        seconds = ship(config)
        own_s, store_s = time.process_time() - own_s, cpu_s([process.pid]) - store_s
        alone_s = cpu_s([process.pid])
        alone_rows, alone_seconds = insert_alone(config)
        alone_s = cpu_s([process.pid]) - alone_s
    if alone_rows != count:
        raise BenchmarkError(f"of {count} rows the store has {alone_rows}")
    return ShipperResult(
        commit=commit(),
        began_at=began.isoformat(timespec="seconds"),
        machine=machine,
        rows=count,
        row_bytes=size // count,
        files=files,
        seconds=round(seconds, 2),
        rows_per_s=round(count / seconds),
        shipper_cpu_us=round(own_s / count * 1e6, 1),
        store_cpu_us=round(store_s / count * 1e6, 1),
        store_alone_rows_per_s=round(count / alone_seconds),
        store_alone_cpu_us=round(alone_s / count * 1e6, 1),
    )


def main() -> None:
    """The command. What it found goes to standard output as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shipper", description=__doc__)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--name", help="of the file in benchmarks/results, without .json; default: none")
    options = parser.parse_args()
    driver_options.pd = None  # as the shipper's process has it
    try:
        with interruptible(LIMIT_S), work_folder() as folder:
            result = measure(folder, options.rows, options.seed)
    except (BenchmarkError, TracetuneError) as error:
        raise SystemExit(str(error)) from error
    tell(result, options.name)


if __name__ == "__main__":
    main()
