"""Every snippet of docs/feedback.md, run as it stands against a running system."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.system import ROOT, running_system, tracetune
from tests.support.upstream import ScriptedUpstream, answers

pytestmark = pytest.mark.slow
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.skipif(shutil.which("curl") is None, reason="a snippet uses curl")
def test_every_snippet_works_and_what_it_says_is_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = BLOCK.findall((ROOT / "docs/feedback.md").read_text(encoding="utf-8"))
    assert [language for language, _ in blocks] == ["python", "sh", "csv", "sh"]
    (_, python), (_, http), (_, csv), (_, import_) = blocks
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "tracetune").write_text(f'#!/bin/sh\nexec {sys.executable} -m gateway.cli.root "$@"\n')
    (commands / "tracetune").chmod(0o700)
    (tmp_path / "refunds.csv").write_text(csv)
    with ScriptedUpstream() as upstream:
        upstream.default = answers("It arrives.")
        environ = {"OPENAI_API_KEY": "sk-x", "OPENAI_BASE_URL": upstream.base_url}
        assert tracetune("init", "--yes", "--no-learn", environ=environ, cwd=tmp_path).returncode == 0
        with running_system(tmp_path / "tracetune.yaml", environ) as system:
            monkeypatch.setenv("TRACETUNE_URL", system.base_url.removesuffix("/v1"))
            exec(compile(python, "docs/feedback.md", "exec"), {})
            system.wait_rows("SELECT trace_id FROM traces", lambda rows: len(rows) == 1, within_s=10)
            shell = {
                **os.environ,
                **environ,
                "TRACETUNE_KEY": "unused",
                "PATH": f"{commands}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
            }
            for script in (http, import_):
                done = subprocess.run(
                    ["/bin/sh", "-e", "-c", script],
                    cwd=tmp_path,
                    env=shell,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, done.stderr
            assert "refunds.csv:3: no tag of this value" in done.stderr
            said = system.wait_rows(
                "SELECT kind, value, text, imported_by FROM feedback FINAL ORDER BY kind",
                lambda rows: len(rows) == 7,
                within_s=10,
            )

    assert [tuple(row.values()) for row in said] == [
        ("comment", None, "The date was missing.", None),
        ("csat", 4.0, None, None),
        ("delivered_late", 0.0, None, "finance"),
        ("kept", None, "It arrives on Friday.", None),
        ("outcome", None, "edited", None),
        ("rating", 0.8, None, None),
        ("refunded", 1.0, None, "finance"),
    ]
