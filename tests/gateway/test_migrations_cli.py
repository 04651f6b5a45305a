"""`tracetune migrations` as a shell runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from gateway.traces.migrate import shipped_migrations
from gateway.traces.store import open_store
from tests.support.store import a_trace, store_config, write_config

NAMES = [migration.name for migration in shipped_migrations()]


def run_migrations(config_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli.root", "migrations", *arguments, "--config", str(config_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_is_applied_is_listed(embedded_config_path: Path) -> None:
    listed = run_migrations(embedded_config_path, "list", "--json")
    table = run_migrations(embedded_config_path, "list")

    assert json.loads(listed.stdout) == [
        {"migration": name, "applied": True, "reversible": True} for name in NAMES
    ]
    assert all(name in table.stdout for name in NAMES)


def test_a_store_in_use_is_not_taken_back(embedded_config_path: Path) -> None:
    refused = run_migrations(embedded_config_path, "revert", "--to", "4")

    assert refused.returncode == 1
    assert refused.stderr == (
        "tracetune: the store is in use; stop `tracetune up` before its tables are taken back\n"
    )


def test_a_store_is_taken_back_and_the_next_start_brings_it_forward_with_its_rows(tmp_path: Path) -> None:
    path, config = write_config(tmp_path), store_config(tmp_path)
    with open_store(config) as store:
        store.insert("traces", [a_trace()], token="t")

    taken = run_migrations(path, "revert", "--to", "4", "--json")

    assert json.loads(taken.stdout) == {"reverted": [name for name in reversed(NAMES) if int(name[:4]) > 4]}
    with open_store(config) as store:
        assert store.query("SELECT count() AS n FROM traces") == [{"n": 1}]
        assert store.query("SELECT sum(traces) AS n FROM traces_by_minute") == [{"n": 1}]
