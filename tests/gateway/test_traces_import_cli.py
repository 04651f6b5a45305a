"""`tracetune traces import` as a shell runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Config
from gateway.paths import paths_of
from gateway.traces.endpoint import read_endpoint, read_token
from gateway.traces.store import Store
from tests.support.system import ROOT, tracetune

WITHIN_S = 60.0


def example(number: int) -> dict[str, Any]:
    question = {"role": "user", "content": f"where is order {number}?"}
    return {"messages": [question, {"role": "assistant", "content": "on its way"}]}


def test_what_cannot_be_taken_is_told_by_its_line_and_makes_the_exit_1(
    tmp_path: Path, embedded_config_path: Path, clean_store: Store
) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(f"{json.dumps(example(1))}\nmy secret\n{json.dumps(example(2))}\n")
    arguments = (
        "traces",
        "import",
        str(path),
        "--route",
        "support-bot",
        "--config",
        str(embedded_config_path),
    )

    dry = tracetune(*arguments, "--dry-run")
    counted = clean_store.query("SELECT count() AS n FROM traces")[0]["n"]
    done = tracetune(*arguments)
    again = tracetune(*arguments, "--json")
    shown = tracetune("traces", "tail", "--json", "--config", str(embedded_config_path))

    assert (dry.returncode, counted) == (1, 0)
    assert dry.stdout == "would import 2 of 3 lines into support-bot, 1 failed\n"
    assert (done.returncode, done.stdout) == (1, "imported 2 of 3 lines into support-bot, 1 failed\n")
    assert done.stderr == dry.stderr == f"tracetune: {path}:2: no JSON\n"
    assert json.loads(again.stdout)["present"] == 2
    assert [json.loads(line)["variant"] for line in shown.stdout.splitlines()] == ["imported", "imported"]


def test_a_whole_file_is_exit_0_and_an_unknown_route_2(
    tmp_path: Path, embedded_config_path: Path, clean_store: Store
) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(example(1)))
    config = ("--config", str(embedded_config_path))

    done = tracetune("traces", "import", str(path), "--route", "support-bot", "--tag", "from=old", *config)
    unknown = tracetune("traces", "import", str(path), "--route", "suport-bot", *config)

    assert (done.returncode, done.stderr) == (0, "")
    assert clean_store.query("SELECT tags FROM traces") == [{"tags": {"from": "old"}}]
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert unknown.stderr == "tracetune: no route 'suport-bot'; routes: support-bot\n"


def test_tables_that_are_not_there_are_made_as_the_configuration_says(
    tmp_path: Path, embedded_config: Config, clean_store: Store
) -> None:
    endpoint = read_endpoint(paths_of(embedded_config).store)
    assert endpoint is not None
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(example(1)))
    url = endpoint.url.replace("http://", "clickhouse://me@") + "/imported"
    config = tmp_path / "tracetune.yaml"
    config.write_text(
        f"store: {{url: '{url}', cluster: elsewhere, password: {{env: PW}}}}\n"
        f"capture: {{spool: {tmp_path}/data/spool}}\n"
        "upstreams: [{name: up, base_url: 'http://127.0.0.1:1/v1'}]\n"
        "routes: [{model: support-bot, variants: [{name: a, upstream: up, model: m}]}]\n"
    )
    done = tracetune(
        *("traces", "import", str(path), "--route", "support-bot", "--config", str(config)),
        environ={"PW": read_token(paths_of(embedded_config).store)},
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "knows no cluster 'elsewhere'" in done.stderr


@pytest.mark.parametrize("rows_before_kill", [1, 2_500])
def test_an_import_that_is_killed_and_repeated_stores_every_line_once(
    tmp_path: Path, embedded_config_path: Path, clean_store: Store, rows_before_kill: int
) -> None:
    path = tmp_path / "log.jsonl"
    lines = 4_000
    path.write_text("".join(f"{json.dumps(example(number))}\n" for number in range(lines)))
    arguments = (
        "traces",
        "import",
        str(path),
        "--route",
        "support-bot",
        "--config",
        str(embedded_config_path),
    )
    killed = subprocess.Popen(
        [sys.executable, "-m", "gateway.cli.root", *arguments], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    until = time.monotonic() + WITHIN_S
    while clean_store.query("SELECT count() AS n FROM traces")[0]["n"] < rows_before_kill:
        assert time.monotonic() < until
        assert killed.poll() is None
    killed.kill()
    killed.wait()

    done = tracetune(*arguments)

    assert done.returncode == 0, done.stderr
    rows = clean_store.query("SELECT count() AS n, uniqExact(trace_id) AS ids FROM traces")
    assert rows == [{"n": lines, "ids": lines}]
