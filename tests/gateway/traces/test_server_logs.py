"""What we ship for a ClickHouse server's configuration: read as XML, and checked against ClickHouse's own names."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from gateway.errors import StoreRefusedError
from gateway.traces.store import Store

SHIPPED = Path(__file__).parents[3] / "config" / "clickhouse" / "config.d" / "tracetune.xml"
KEPT_DAYS = re.compile(r"event_date \+ INTERVAL (\d+) DAY DELETE")


def logs() -> list[ET.Element]:
    root = ET.parse(SHIPPED).getroot()
    assert root.tag == "clickhouse"
    return list(root)


def test_it_names_only_logs_that_clickhouse_has_each_once(clean_store: Store) -> None:
    names = [log.tag for log in logs()]

    for name in names:
        clean_store.command(f"SYSTEM FLUSH LOGS {name}")  # refused for what is no log
    assert len(names) == len(set(names))
    with pytest.raises(StoreRefusedError, match="does not exist"):
        clean_store.command("SYSTEM FLUSH LOGS query_logs")


def test_each_log_is_emptied_within_three_months_or_not_written_at_all() -> None:
    for log in logs():
        if log.attrib:
            assert (log.attrib, len(log)) == ({"remove": "1"}, 0)
        else:
            kept = KEPT_DAYS.fullmatch(log.findtext("ttl") or "")
            assert kept is not None
            assert 1 <= int(kept[1]) <= 90
            assert [part.tag for part in log] == ["ttl"], "an engine of its own would make the TTL an error"


def test_what_grows_without_anyone_asking_is_not_written() -> None:
    removed = {log.tag for log in logs() if log.attrib}

    assert {"trace_log", "text_log", "metric_log", "asynchronous_metric_log"} <= removed
