"""`tracetune status` tells the truth, and the command that moves a route on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.config import Config, load_config
from gateway.paths import paths_of
from gateway.traces.store import Store
from learner.overview import RouteLine, overview
from tests.support.judging import add, some_traces

YAML = """
store: {{url: "embedded:{data}"}}
capture: {{spool: "{directory}/spool"}}
upstreams: [{{name: up, base_url: "http://127.0.0.1:9/v1", default: true}}]
routes: [{{model: support-bot, variants: [{{name: stable, upstream: up, model: m}}]}}]
judges: [{{name: good, path: "judge.py:good"}}]
"""
Write = Callable[[str], Config]


@pytest.fixture
def write(tmp_path: Path, embedded_config: Config) -> Write:
    """A configuration over the session's store, with a judge of this source."""

    def config(judge: str) -> Config:
        (tmp_path / "judge.py").write_text(judge)
        path = tmp_path / "tracetune.yaml"
        path.write_text(YAML.format(data=paths_of(embedded_config).data, directory=tmp_path))
        return load_config(path)

    return config


def line_of(config: Config, store: Store) -> RouteLine:
    (line,) = overview(config, store).routes
    return line


def test_a_broken_judge_is_named_with_its_file_its_reason_and_the_remedy(write: Write, clean_store: Store):
    config = write("import nowhere\n")
    add(clean_store, *some_traces(2))
    found = overview(config, clean_store)
    (broken,) = found.broken_judges
    judge = config.judges[0]
    assert broken.judge == "good"
    assert broken.why.startswith(f"{judge.file}:1: does not import: ModuleNotFoundError")
    assert broken.why.endswith("correct that line")
    (line,) = found.routes
    assert line.has == "captured; nothing judged yet; judge good is broken"
    assert line.next == f"tracetune judge try {judge.path}"


def test_what_nobody_judged_yet_is_not_called_judged(write: Write, clean_store: Store):
    config = write("def good(trace): return True\n")
    add(clean_store, *some_traces(2))
    assert line_of(config, clean_store).has == "captured; nothing judged yet"
