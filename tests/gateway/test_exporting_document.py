"""docs/exporting.md, tried as written."""

from __future__ import annotations

import json
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path

from gateway.cli.traces_import import import_command
from gateway.traces.export import FORMATS
from gateway.traces.importing.recognise import SOURCES
from gateway.traces.store import Store
from gateway.traces.types import Judgment
from tests.support.store import a_trace
from tests.support.system import ROOT, tracetune

TEXT = (ROOT / "docs" / "exporting.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^tracetune (.*?)\s*(?:#.*)?$", TEXT, re.MULTILINE)


def test_every_command_of_the_page_works(
    tmp_path: Path, embedded_config_path: Path, clean_store: Store
) -> None:
    clean_store.insert("traces", [a_trace(trace_id="ID")], token="t")
    verdict = Judgment(
        trace_id="ID", judge="resolved", version="v", score=1.0, reason="", judged_at=datetime.now(UTC)
    )
    clean_store.insert("judgments", [verdict], token="j")
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    (tmp_path / "old-log.jsonl").write_text(json.dumps({"messages": messages}))

    assert len(COMMANDS) == 5
    for command in COMMANDS:
        arguments = [word for word in shlex.split(command) if word != "--follow"]  # which has no end
        done = tracetune(*arguments, "--config", str(embedded_config_path), cwd=tmp_path)
        assert done.returncode == 0, f"{command}: {done.stderr}"

    assert {path.name for path in tmp_path.iterdir()} == {"old-log.jsonl", "train.jsonl", "traces.parquet"}


def test_the_page_has_every_format_and_every_option_of_an_import() -> None:
    options = [option.opts[0] for option in import_command.params if option.opts[0].startswith("--")]

    assert [name for name in (*FORMATS, *SOURCES[1:]) if f"`{name}`" not in TEXT] == []
    assert [
        name for name in options if name not in {"--config", "--json", "--tag"} and name not in TEXT
    ] == []
