"""A store in a process of its own with traces in it, judges beside it, and who may judge them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from benchmarks.ours import REPOSITORY
from benchmarks.processes import started
from benchmarks.shipper import rows
from benchmarks.work_folder import CONFIGURATION
from gateway.config import Config
from gateway.config.load import load_config
from gateway.traces.shipper import open_migrated
from gateway.traces.store import Store
from gateway.traces.types import Trace

INSERT_ROWS = 2_500
STORE_WITHIN_S = 60.0
ENVIRONMENT = {"PYTHONPATH": str(REPOSITORY)}
JUDGE = "def good(trace):\n    return {verdict}\n"


class Judged(msgspec.Struct, frozen=True):
    """What runs. `process` is the store's."""

    config_path: Path
    config: Config
    store: Store
    process: int


def write_judge(folder: Path, name: str, source: str) -> dict[str, Any]:
    """Write `good` into a file of *folder*: its entry in the configuration."""
    path = folder / f"{name}.py"
    path.write_text(source)
    return {"name": name, "path": f"{path}:good"}


@contextlib.contextmanager
def judged_store(folder: Path, judges: Sequence[dict[str, Any]]) -> Iterator[Judged]:
    """An empty store in *folder* with *judges* in its configuration."""
    path = folder / CONFIGURATION
    wanted = {
        "listen": {"host": "127.0.0.1", "port": 0},
        "store": {"url": f"embedded:{folder / 'data'}"},
        "upstreams": [{"name": "up", "base_url": "http://127.0.0.1:9/v1", "default": True}],
        "routes": [{"model": "bot", "variants": [{"name": "stable", "upstream": "up", "model": "m"}]}],
        "judges": list(judges),
    }
    path.write_text(yaml.safe_dump(wanted))
    config = load_config(path)
    command = [sys.executable, "-m", "gateway.traces.embedded", "--config", str(path)]
    with started(command, core=None, log=folder / "store.log", env=ENVIRONMENT, cwd=folder) as process:
        Store.connect(config, {}, wait_s=STORE_WITHIN_S).close()
        with open_migrated(config) as store:
            yield Judged(path, config, store, process.pid)


def add(store: Store, traces: Sequence[Trace], name: str) -> None:
    """Insert *traces*; *name* tells one insert from another."""
    for first in range(0, len(traces), INSERT_ROWS):
        store.insert("traces", traces[first : first + INSERT_ROWS], token=f"{name}-{first}")


def some_traces(count: int, seed: int) -> list[Trace]:
    """Of 3 KB each; another *seed* has other ids."""
    found = rows(count, seed)
    return [msgspec.structs.replace(trace, session=f"{seed}-{trace.session}") for trace in found]


def verdicts(store: Store, judge: str, version: str) -> dict[str, int]:
    """Of one version: traces with a judgment, judgments in force, and rows that ever were stored."""
    values = {"judge": judge, "version": version}
    where = "FROM judgments WHERE judge = {judge:String} AND version = {version:String}"
    (found,) = store.query(f"SELECT uniqExact(trace_id) AS traces, count() AS judgments {where}", values)
    (all_rows,) = store.query(f"SELECT count() AS n {where} SETTINGS final = 0", values)
    return {**{name: int(count) for name, count in found.items()}, "rows": int(all_rows["n"])}
