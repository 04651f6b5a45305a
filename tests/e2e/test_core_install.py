"""Without the extras no command ends in a traceback: what needs one says so in one line, the rest works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.cli.extras import extra_with
from learner.errors import LearnerError
from learner.runtime import check_installed
from tests.support.inference import base_model_files
from tests.support.system import ROOT, tracetune

# Hides what only extras bring from every interpreter that is started with this on its path.
SITECUSTOMIZE = """
import sys

HIDDEN = {"torch", "transformers", "peft", "trl", "accelerate", "datasets", "datasketch", "gguf", "safetensors",
          "tokenizers", "vllm", "openai", "h2", "ray"}


class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""
CONFIG = """
upstreams: [{name: up, base_url: http://127.0.0.1:9/v1, default: true}]
routes: [{model: bot, variants: [{name: stable, upstream: up, model: m}]}]
judges: [{name: j, path: "judge.py:good"}]
learner: [{route: bot, base_model: ./model, serve_on: up, judge: j}]
"""


@pytest.fixture
def core(tmp_path: Path) -> Path:
    """A folder with a configuration, and the environment of a core install in `site`."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITECUSTOMIZE)
    (tmp_path / "judge.py").write_text("def good(trace):\n    return True\n")
    base_model_files(tmp_path / "model")
    (tmp_path / "tracetune.yaml").write_text(CONFIG)
    return tmp_path


def run(core: Path, *arguments: str) -> tuple[int, str]:
    done = tracetune(*arguments, environ={"PYTHONPATH": f"{core / 'site'}:{ROOT}"}, cwd=core)

    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def test_the_help_of_all_and_of_each_command_needs_no_extra(core: Path) -> None:
    code, text = run(core, "--help")
    commands = [
        "up",
        "gateway",
        "check",
        "explain",
        "sql",
        "traces",
        "demo",
        "init",
        "judge",
        "learn",
        "rollout",
        "serve",
        "snapshot",
        "status",
    ]

    assert code == 0
    assert [command for command in commands if command not in text] == []
    assert run(core)[0] == 2
    assert [command for command in commands if run(core, command, "--help")[0] != 0] == []


@pytest.mark.parametrize("arguments", [["demo"], ["serve", "--model", "model", "--port", "0"]])
def test_a_command_that_needs_an_extra_says_so_in_one_line(core: Path, arguments: list[str]) -> None:
    code, text = run(core, *arguments)

    assert (code, len(text.splitlines())) == (1, 1), text
    assert "pip install 'tracetune[learner" in text


def test_an_import_that_only_an_extra_brings_is_one_line_wherever_it_happens(core: Path) -> None:
    needy = (
        "import sys, gateway.cli.root as root\n"
        "root._OWN_COMMANDS['needy'] = ('learner.serving.server', 'serve')\n"
        "sys.argv = ['tracetune', 'needy']\n"
        "root.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", needy],
        env={**os.environ, "PYTHONPATH": f"{core / 'site'}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (
        1,
        "tracetune: this needs torch; pip install 'tracetune[learner]'\n",
    )
    assert extra_with("no_such_module") is None  # a bug of ours keeps its traceback


def test_what_a_stage_of_the_learner_lacks_is_named_with_the_remedy() -> None:
    with pytest.raises(LearnerError, match=r"needs no_such_module; pip install 'tracetune\[learner\]'"):
        check_installed("json", "no_such_module")


@pytest.mark.slow
def test_too_few_traces_are_exit_3_before_any_extra_is_asked_for(core: Path) -> None:
    for command in ("dataset", "train", "evaluate", "run"):
        code, text = run(core, "learn", command)

        assert (code, "0 of 200 judged traces" in text) == (3, True), text
    assert run(core, "learn", "status")[0] == 0
    assert run(core, "status")[0] == 0
    assert run(core, "snapshot", "list")[0] == 0
