"""`tracetune sql`: read the store with ClickHouse's SQL, one line of JSON per row."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import rich_click as click

from gateway.cli.root import config_option
from gateway.config import load_config
from gateway.traces.bodies.reads import local_reader, may_show_bodies, record_read, shape_of
from gateway.traces.reading import only_reading
from gateway.traces.store import open_store

_READ_SETTINGS = {
    "readonly": "1",
    "date_time_output_format": "iso",
    "output_format_json_quote_64bit_integers": "0",
    "output_format_json_quote_decimals": "0",
    "output_format_json_quote_denormals": "0",  # not a number is null, too
    "output_format_json_escape_forward_slashes": "0",
    "output_format_json_validate_utf8": "1",
}
# JSON must escape control characters below 0x20; these, which terminals obey as well, it may.
_MORE_CONTROLS = re.compile(rb"\x7f|\xc2[\x80-\x9f]")


@click.command()
@click.argument("statement")
@config_option
def sql(statement: str, config_path: Path) -> None:
    """Run one SQL statement that reads, and print its rows as lines of JSON.

    Works with `tracetune up` running or not. Tables: traces, judgments, feedback, calibrations,
    datasets, snapshots, rollouts, traces_by_minute, body_reads; `DESCRIBE traces` shows one. A statement that
    may show what people wrote is put down in body_reads first, without its values.
    """
    config = load_config(config_path)
    only_reading(statement, ())  # what needs no server to be refused is refused without one
    with open_store(config) as store:
        names = [row["name"] for row in store.query("SELECT name FROM system.table_functions")]
        reading = only_reading(statement, names)
        if may_show_bodies(reading):
            record_read(store, local_reader(), "sql", [], statement=shape_of(reading))
        out = sys.stdout.buffer
        for line in store.json_lines(reading, _READ_SETTINGS):
            out.write(_MORE_CONTROLS.sub(_escaped, line) + b"\n")
        out.flush()


def _escaped(match: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(match[0].decode())
