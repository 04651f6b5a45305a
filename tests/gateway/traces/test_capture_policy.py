"""Which bodies a route keeps, and why a trace has none; which rules redact what is kept."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.changes import ConfigChanges
from gateway.config.load import load_config, parse_config
from gateway.errors import ConfigError
from gateway.paths import paths_of
from gateway.traces import recorder as recorder_module
from gateway.traces.capture_policy import keeps_bodies, policy_of
from gateway.traces.rows import RowBuilder, without_bodies
from gateway.traces.segments import SegmentWriter, writer_name
from gateway.traces.spool.spool_file import read_spool, sealed_files
from gateway.traces.types import Feedback, Trace
from tests.support.capture import ANSWER, captured_feedback, captured_trace, record, wait_until

YAML = """
store: {{url: "embedded:./data"}}
privacy: {{{privacy}}}
upstreams: [{{name: up, base_url: "http://127.0.0.1:9/v1"}}]
routes:
  - {{model: support-bot, {route} variants: [{{name: stable, upstream: up, model: m}}]}}
  - {{model: other, variants: [{{name: stable, upstream: up, model: m}}]}}
"""
TEXT = "mail jane@example.com, call +49 30 12345678, customer K-12345678"


def rows_of(tmp_path: Path, privacy: str = "", route: str = "") -> RowBuilder:
    config = parse_config(YAML.format(privacy=privacy, route=route), "test", tmp_path)
    return RowBuilder(policy_of(config, tmp_path / "redaction_key"))


def built(rows: RowBuilder, text: str = TEXT, **changes: Any) -> Trace:
    trace = rows.build(record(captured_trace(**changes), {"content": text}, ANSWER)).values
    assert isinstance(trace, Trace)
    return trace


@given(st.text(max_size=20), st.text(max_size=40), st.floats(0, 1), st.floats(0, 1))
def test_a_session_is_kept_whole_and_a_larger_share_keeps_what_a_smaller_one_does(
    client: str, session: str, one: float, other: float
) -> None:
    small, large = sorted((one, other))
    assert keeps_bodies(client, session, small) == keeps_bodies(client, session, small)
    assert keeps_bodies(client, session, small) <= keeps_bodies(client, session, large)
    assert keeps_bodies(client, session, 1.0)
    assert not keeps_bodies(client, session, 0.0)


def test_about_the_share_of_the_sessions_that_was_asked_for_keeps_its_bodies() -> None:
    kept = sum(keeps_bodies("web", f"session-{number}", 0.1) for number in range(10_000))
    assert 850 < kept < 1150


def test_a_trace_that_is_sampled_out_keeps_all_but_its_bodies_and_says_so(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, route="capture_bodies: 0.5,")
    for number in range(40):
        session = f"s{number}"
        kept = keeps_bodies("web", session, 0.5)
        first, second = (built(rows, client="web", session=session) for _ in range(2))
        for trace in (first, second):
            assert (trace.request is not None, trace.response is not None) == (kept, kept)
            assert trace.captured == ("full" if kept else "sampled_out")
            assert (trace.tokens_in, trace.tokens_out, trace.finish_reason) == (100, 20, "stop")
            assert trace.cost_usd is not None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "full"),
        ({"route": "", "capture": "metadata"}, "metadata"),
        ({"route": "support-bot", "capture": "metadata"}, "left_out"),  # of an answer that was too large
    ],
)
def test_a_trace_says_why_it_has_no_bodies(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    trace = built(rows_of(tmp_path), **changes)
    assert trace.captured == why
    assert (trace.request is None) == (why != "full")


def test_a_route_that_captures_metadata_and_a_body_that_was_left_out_say_so(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, route="capture: metadata,")
    assert built(rows, capture="metadata").captured == "metadata"
    left_out = rows.build(without_bodies(record(captured_trace(), {"content": TEXT}, ANSWER))).values
    assert isinstance(left_out, Trace)
    assert left_out.captured == "left_out"


def test_all_rules_are_on_unless_the_configuration_turns_them_off(tmp_path: Path) -> None:
    own = "patterns: [{name: CUSTOMER_NO, pattern: 'K-[0-9]{8}'}]"
    request = built(rows_of(tmp_path, own)).request or ""
    assert "[EMAIL_" in request
    assert "[PHONE_" in request
    assert "[CUSTOMER_NO_" in request
    off = built(rows_of(tmp_path, f"{own}, rules_off: [EMAIL, CUSTOMER_NO]")).request or ""
    assert "jane@example.com" in off
    assert "K-12345678" in off
    assert "[PHONE_" in off


def test_a_route_has_its_own_choice_of_rules_and_the_others_keep_theirs(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "rules_off: [EMAIL]", route="rules_off: [PHONE],")
    own, others = built(rows).request or "", built(rows, route="other").request or ""
    assert "+49 30 12345678" in own
    assert "[EMAIL_" in own
    assert "jane@example.com" in others
    assert "[PHONE_" in others


def test_a_session_is_one_on_all_routes_and_in_feedback_whatever_their_rules(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, route="rules_off: [EMAIL],")
    session = "jane@example.com"
    said = rows.build(record(captured_feedback(trace_id=None, session=session))).values
    assert isinstance(said, Feedback)
    assert built(rows, session=session).session == built(rows, session=session, route="other").session
    assert said.session == built(rows, session=session).session
    assert session not in (said.session or "")


@pytest.mark.parametrize(
    ("privacy", "route", "told"),
    [
        ("rules_off: [E_MAIL]", "", "unknown redaction rule 'E_MAIL'; known: PRIVATE_KEY"),
        ("", "rules_off: [PHONES],", "at `$.routes[0].rules_off`"),
        ("patterns: [{name: X, pattern: '('}]", "", "pattern 'X' is not in RE2's syntax: missing ): ( - at"),
        ("patterns: [{name: X, pattern: 'a(?=b)'}]", "", "is not in RE2's syntax"),
        ("patterns: [{name: X, pattern: 'a*'}]", "", "matches the empty text"),
        ("patterns: [{name: X, pattern: '\\Aa'}]", "", "write ^ and $"),
        ("patterns: [{name: X, pattern: '((a{100}){100}){100}'}]", "", "is not in RE2's syntax"),
        ("patterns: [{name: X, pattern: '\\pL{40}'}]", "", "is too large"),
        ("patterns: [{name: EMAIL, pattern: 'a'}]", "", "has the name of a built-in rule"),
        ("patterns: [{name: x, pattern: 'a'}]", "", "`$.privacy.patterns[0].name`"),
        ("patterns: [{name: X, pattern: 'a'}, {name: X, pattern: 'b'}]", "", "names 'X' twice"),
        (f"patterns: [{{name: X, pattern: '{'a' * 501}'}}]", "", "length <= 500"),
        (
            f"patterns: [{', '.join(f'{{name: X{n}, pattern: a}}' for n in range(51))}]",
            "",
            "has 51 patterns; at most 50",
        ),
        ("", "capture_bodies: 1.1,", "`$.routes[0].capture_bodies`"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_its_place(
    tmp_path: Path, privacy: str, route: str, told: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config(YAML.format(privacy=privacy, route=route), "tracetune.yaml", tmp_path)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "at `$." in str(raised.value)


def test_a_change_of_the_file_is_taken_once_and_an_invalid_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "tracetune.yaml"
    path.write_text(YAML.format(privacy="", route=""))
    changes = ConfigChanges(path)
    assert changes.take() is None
    for privacy, taken in (("rules_off: [EMAIL]", True), ("rules_off: [NONE]", False), ("", True)):
        after = tmp_path / "after.yaml"
        after.write_text(YAML.format(privacy=privacy, route=""))
        after.replace(path)
        assert (changes.take() is not None) == taken
        assert changes.take() is None


def test_what_is_captured_after_a_change_of_the_rules_is_redacted_by_them(tmp_path: Path) -> None:
    path = tmp_path / "tracetune.yaml"
    path.write_text(YAML.format(privacy="rules_off: [EMAIL]", route=""))
    paths = paths_of(load_config(path))
    writer = SegmentWriter(paths.segments, writer_name(0), max_bytes=1 << 22, at_bound="drop_oldest")

    def capture(trace_id: str) -> None:
        writer.append(captured_trace(trace_id), json.dumps({"content": TEXT}).encode())

    def spooled() -> dict[str, str]:
        files = [*sealed_files(paths.spool), *paths.spool.glob("*.open")]
        rows = [json.loads(json.dumps(_row(one))) for file in files for one in read_spool(file).records]
        return {row["trace_id"]: row["request"] for row in rows}

    stop = threading.Event()
    thread = threading.Thread(target=recorder_module.main, args=(path, stop))
    thread.start()
    try:
        capture("before")
        wait_until(lambda: "before" in spooled())
        path.write_text(YAML.format(privacy="", route=""))
        capture("after")
        wait_until(lambda: "after" in spooled())
    finally:
        stop.set()
        thread.join()
        writer.close()
    assert "jane@example.com" in spooled()["before"]
    assert "[EMAIL_" in spooled()["after"]


def _row(one: Any) -> Any:
    row = msgspec.msgpack.decode(one.row)
    return {"trace_id": row["trace_id"], "request": row["request"]}
