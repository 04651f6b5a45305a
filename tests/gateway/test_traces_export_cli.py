"""`tracetune traces export` as a shell runs it."""

from __future__ import annotations

import io
import json
import stat
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet
import pytest
import rich_click as click

from gateway.cli.times import Moment, Span
from gateway.errors import OperationError
from gateway.traces.export import export_traces
from gateway.traces.exporting.selection import Selection
from gateway.traces.spool.replace import replacing
from gateway.traces.store import Store
from tests.support.store import a_trace
from tests.support.system import tracetune


def test_a_file_is_replaced_as_a_whole_and_is_its_owners_alone(
    tmp_path: Path, embedded_config_path: Path, clean_store: Store
) -> None:
    day_old = datetime.now(UTC) - timedelta(days=1)
    rows = [a_trace(trace_id="new"), a_trace(trace_id="old", started_at=day_old), a_trace(outcome="timeout")]
    clean_store.insert("traces", rows, token="t")
    path = tmp_path / "train.jsonl"
    path.write_text("what was there before")
    config = ("--config", str(embedded_config_path))

    done = tracetune("traces", "export", "--since", "6h", "-o", str(path), *config)
    again = tracetune("traces", "export", "--route", "nobody", "-o", str(path), *config)

    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr == "exported 1 of 2 traces; left out: 1 the answer failed (--outcome takes it)\n"
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == "tracetune: nothing to export: 0 of 0 traces\n"
    (line,) = path.read_text().splitlines()  # still the first one's
    assert json.loads(line)["messages"][-1] == {"role": "assistant", "content": "hi"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_standard_output_has_the_lines_and_nothing_else(
    embedded_config_path: Path, clean_store: Store
) -> None:
    clean_store.insert("traces", [a_trace(finish_reason="length"), a_trace(tags={"team": "x"})], token="t")
    config = ("--config", str(embedded_config_path))

    done = tracetune("traces", "export", "--format", "trl", "--incomplete", "--tag", "team=x", *config)

    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {
            "prompt": [{"role": "user", "content": "hello"}],
            "completion": [{"role": "assistant", "content": "hi"}],
        }
    ]
    assert done.stderr == "exported 1 of 1 traces\n"
    reads = clean_store.query("SELECT purpose, trace_ids FROM body_reads")
    assert [(row["purpose"], len(row["trace_ids"])) for row in reads] == [("export", 1)]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--since", "7d", "--from", "2026-01-01"], 2, "--since and --from both say where to begin; leave one out"),
        (["--since", "yesterday"], 2, "'yesterday' is no span of time; write 90m, 36h, 7d or 2w"),
        (["--tag", "team"], 2, "--tag 'team' is not NAME=VALUE"),
        (["--min-score", "0.5"], 2, "a score is a judge's: name one with --judge"),
        (["-o", "/nowhere/train.jsonl"], 1, "/nowhere/train.jsonl cannot be written: No such file or directory"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_one_line(
    embedded_config_path: Path, clean_store: Store, arguments: list[str], code: int, said: str
) -> None:
    clean_store.insert("traces", [a_trace()], token="t")
    done = tracetune("traces", "export", *arguments, "--config", str(embedded_config_path))

    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_parquet_goes_through_a_pipe_too(tmp_path: Path, clean_store: Store) -> None:
    """A pipe has no position, and a Parquet file names positions in itself."""
    clean_store.insert("traces", [a_trace() for _ in range(3)], token="t")

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:
            self.data += bytes(data)
            return len(data)

        def tell(self) -> int:
            raise OSError("Illegal seek")

    pipe = Pipe()
    export_traces(clean_store, Selection(), "parquet", pipe, audit=list)

    assert pyarrow.parquet.read_table(io.BytesIO(pipe.data)).num_rows == 3


def test_without_pyarrow_one_line_says_what_to_install(
    clean_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(OperationError, match="writing Parquet needs pyarrow; pip install pyarrow"):
        export_traces(clean_store, Selection(), "parquet", io.BytesIO(), audit=list)


def test_whatever_breaks_an_export_off_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("old")

    def broken_off() -> None:
        with replacing(path) as out:
            out.write(b"half of the new one")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()

    assert (path.read_text(), list(tmp_path.iterdir())) == ("old", [path])


def test_spans_and_moments_are_read_as_people_write_them() -> None:
    def moment(text: str) -> datetime:
        return Moment().convert(text, None, None)

    assert [Span().convert(text, None, None) for text in ("90m", "36h", "7d", "2w")] == [
        timedelta(minutes=90),
        timedelta(hours=36),
        timedelta(days=7),
        timedelta(days=14),
    ]
    assert moment("2026-11-01") == datetime(2026, 11, 1, tzinfo=UTC)
    assert moment("2026-11-01T12:30+01:00") == datetime(2026, 11, 1, 11, 30, tzinfo=UTC)
    for text in ("7", "d", "-7d", "7 days", "1.5h"):
        with pytest.raises(click.BadParameter):
            Span().convert(text, None, None)
