"""Ours as `tracetune up` runs it, everything on, with its processes given to their cores."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from benchmarks.place import Place, Running
from benchmarks.priority import NICE_BESIDE, own_nice, pin
from benchmarks.processes import free_port, started, wait_answering
from benchmarks.types import BenchmarkError, Cores
from benchmarks.wire import KEY, MODEL
from benchmarks.work_folder import CONFIGURATION
from gateway.config.load import load_config
from gateway.errors import TracetuneError
from gateway.metric_slots import SlotReader
from gateway.metrics import DROPPED, GAUGES, metrics_directory
from gateway.paths import Paths, paths_of
from gateway.supervisor.supervisor import Processes
from gateway.traces.store import Store

REPOSITORY = Path(__file__).resolve().parents[1]
KEY_VARIABLE = "TRACETUNE_BENCHMARK_KEY"
READY_WITHIN_S = 60.0
STOP_WITHIN_S = 60.0
STORE_WITHIN_S = 10.0
SHARED_MEMORY_BYTES = 4_000_000_000  # as much as one turn leaves behind at most; nothing may be dropped
SPOOL_BYTES = 20_000_000_000
CONCURRENT = 4096


def configuration(folder: Path, port: int, upstream: int, *, capture: str, workers: int) -> dict[str, Any]:
    """Keys, two weighted variants, prices, capture, an embedded store."""
    price = {"input": 0.15, "cached_input": 0.075, "output": 0.6}
    return {
        "listen": {"host": "127.0.0.1", "port": port, "workers": workers},
        "store": {"url": f"embedded:{folder / 'data'}"},
        "capture": {"memory_bytes": SHARED_MEMORY_BYTES, "max_bytes": SPOOL_BYTES},
        "auth": {"keys": [{"name": "benchmark", "key": {"env": KEY_VARIABLE}, "routes": [MODEL]}]},
        "upstreams": [
            {
                "name": "fixed",
                "base_url": f"http://127.0.0.1:{upstream}/v1",
                "prices": [{"model": "served", **price}, {"model": "served-too", **price}],
                "limits": {"concurrent": CONCURRENT, "queue": CONCURRENT},
            }
        ],
        "routes": [
            {
                "model": MODEL,
                "capture": capture,
                "sticky_by": "session",
                "variants": [
                    {"name": "stable", "upstream": "fixed", "model": "served", "weight": 0.9},
                    {"name": "canary", "upstream": "fixed", "model": "served-too", "weight": 0.1},
                ],
            }
        ],
    }


@contextlib.contextmanager
def _up(place: Place, *, capture: str, workers: int) -> Iterator[Running]:
    port = free_port()
    path, log = place.folder / CONFIGURATION, place.folder / "log"
    wanted = configuration(place.folder, port, place.upstream, capture=capture, workers=workers)
    path.write_text(yaml.safe_dump(wanted))
    paths = paths_of(load_config(path))
    command = [sys.executable, "-m", "gateway.cli.root", "up", "--quiet", "--config", str(path)]
    env = {KEY_VARIABLE: KEY, "PYTHONPATH": str(REPOSITORY)}
    try:
        with started(
            command,
            core=place.cores.beside[0],
            log=log,
            env=env,
            cwd=place.folder,
            stop_within_s=STOP_WITHIN_S,
        ) as process:
            pids = _wait_up(process, paths, log)
            wait_answering(process, port, {}, log, READY_WITHIN_S)
            gateway = [pid for name, pid in pids.items() if name.startswith("gateway-")]
            beside = {name: pid for name, pid in pids.items() if not name.startswith("gateway-")}
            _give_out(place.cores, gateway, beside)
            yield Running(
                port=port,
                workers=gateway,
                beside=beside,
                dropped=lambda: dropped(paths),
                stored=lambda: stored(path),
            )
    finally:
        shutil.rmtree(paths.segments, ignore_errors=True)


def _wait_up(process: subprocess.Popen[bytes], paths: Paths, log: Path) -> dict[str, int]:
    """Name to pid of all processes once they are up. Raises BenchmarkError."""
    deadline = time.monotonic() + READY_WITHIN_S
    while "tracetune is up" not in (said := log.read_text(encoding="utf-8", errors="replace")):
        if process.poll() is not None:
            raise BenchmarkError(f"it ended with status {process.returncode}: {said.strip()[-200:]}")
        if time.monotonic() > deadline:
            raise BenchmarkError(f"it was not up within {READY_WITHIN_S:.0f} s: {said.strip()[-200:]}")
        time.sleep(0.1)
    found = msgspec.json.decode((paths.state / "processes.json").read_bytes(), type=Processes)
    pids = {entry.name: entry.pid for entry in found.processes if entry.pid is not None}
    return {**pids, "supervisor": process.pid}


def _give_out(cores: Cores, gateway: list[int], beside: Mapping[str, int]) -> None:
    """Each worker its core, as far as there are some; what works beside them keeps off the load's toes."""
    for number, pid in enumerate(gateway):
        pin(pid, [cores.workers[number % len(cores.workers)]], own_nice())
    for pid in beside.values():
        pin(pid, cores.beside, NICE_BESIDE if cores.shared else own_nice())


def dropped(paths: Paths) -> int:
    """Traces that capture could not keep, as all processes have counted them."""
    totals, _ = SlotReader(metrics_directory(paths), GAUGES).totals()
    return round(sum(values[0] for key, values in totals.items() if key.name == DROPPED.name))


def stored(config_path: Path) -> int:
    """Rows of the store now. Raises BenchmarkError."""
    try:
        with Store.connect(load_config(config_path), {}, wait_s=STORE_WITHIN_S) as store:
            return int(store.query("SELECT count() AS rows FROM traces")[0]["rows"])
    except TracetuneError as error:
        raise BenchmarkError(f"the store: {error}") from error


def everything_on(place: Place) -> contextlib.AbstractContextManager[Running]:
    """One worker."""
    return _up(place, capture="full", workers=1)


def capture_none(place: Place) -> contextlib.AbstractContextManager[Running]:
    """One worker that keeps no trace; all else is as it was."""
    return _up(place, capture="none", workers=1)


def two_workers(place: Place) -> contextlib.AbstractContextManager[Running]:
    """Two workers on one listening socket."""
    return _up(place, capture="full", workers=2)
