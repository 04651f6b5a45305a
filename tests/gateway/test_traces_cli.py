"""`tracetune traces` as a shell runs it, and what it shows."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gateway.cli.conversation import Turn, conversation
from gateway.cli.terminal import plain, plain_line
from gateway.cli.timeline import timeline
from gateway.cli.trace_view import tail_line, trace_view
from gateway.traces.bodies.reads import Reader
from gateway.traces.show import show_trace
from gateway.traces.store import Store
from gateway.traces.tail import tail_traces
from gateway.traces.types import Feedback, Judgment
from tests.support.store import a_trace

NOW = datetime(2026, 3, 4, 5, 6, 7, 123456, tzinfo=UTC)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["messages", "input", "choices", "message", "content", "role", "text", "tool_calls", "error"]),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


def run_traces(config_path: Path, *arguments: str, columns: int = 200) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli.root", "traces", *arguments, "--config", str(config_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "COLUMNS": str(columns)},
    )


def test_tail_prints_the_last_traces_oldest_first(embedded_config_path: Path, clean_store: Store) -> None:
    rows = [a_trace(trace_id=f"t{n}", started_at=NOW + timedelta(seconds=n), cost_usd=None) for n in range(5)]
    clean_store.insert("traces", [*rows, a_trace(trace_id="other", route="b")], token="t")

    result = run_traces(embedded_config_path, "tail", "-n", "2", "--route", "support-bot")
    as_json = run_traces(embedded_config_path, "tail", "--json", "--route", "support-bot")

    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert ["t3" in lines[0], "t4" in lines[1], len(lines)] == [True, True, 2]
    assert "ok 200 12 ms 10→5 tokens $? hello" in lines[1]
    assert [json.loads(line)["trace_id"] for line in as_json.stdout.splitlines()] == [
        "t0",
        "t1",
        "t2",
        "t3",
        "t4",
    ]


@pytest.mark.parametrize("width", [80, 100, 140])
def test_a_tailed_trace_fits_the_terminal_and_keeps_its_words_apart(width: int) -> None:
    trace = a_trace(trace_id="01a2069e-74f3-74a2-8020-693d3e7cbcd4", outcome="client_cancelled", status=499)
    row = {name: getattr(trace, name) for name in trace.__struct_fields__} | {"question": "why? " * 40}

    lines = tail_line(row, width).plain.split("\n")

    assert all(len(line) <= width for line in lines)
    assert len(lines) == (2 if width < 120 else 1)
    words = [word for line in lines for word in line.split()]
    for whole in (trace.trace_id, "support-bot@stable", "client_cancelled", "499", "tokens", "why?"):
        assert whole in words


def test_what_is_piped_is_never_cut(embedded_config_path: Path, clean_store: Store) -> None:
    question = "word " * 20
    request = json.dumps({"messages": [{"role": "user", "content": question}]})
    clean_store.insert("traces", [a_trace(request=request)], token="t")

    result = run_traces(embedded_config_path, "tail", columns=40)

    assert [line.endswith(question.strip()) for line in result.stdout.splitlines()] == [True]


def test_tail_follows_what_arrives_and_prints_it_once(embedded_config_path: Path, clean_store: Store) -> None:
    clean_store.insert("traces", [a_trace(trace_id=f"old{n}") for n in range(3)], token="old")
    following = subprocess.Popen(
        [
            *(sys.executable, "-m", "gateway.cli.root", "traces", "tail", "--follow", "-n", "1", "--json"),
            *("--config", str(embedded_config_path)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(40, following.kill)
    watchdog.start()
    try:
        assert following.stdout is not None
        seen = [json.loads(following.stdout.readline())["trace_id"]]
        # Late in its own time, but new: arrival is what counts.
        for n in range(2):
            late = a_trace(trace_id=f"new{n}", started_at=NOW)
            clean_store.insert("traces", [late], token=f"new{n}")
            seen.append(json.loads(following.stdout.readline())["trace_id"])
        following.send_signal(signal.SIGINT)
        rest = following.stdout.read()
    finally:
        watchdog.cancel()
        following.kill()
        following.wait()

    assert seen[0].startswith("old")
    assert (seen[1:], rest) == (["new0", "new1"], "")


def test_the_functions_behind_the_commands_give_each_trace_once_and_put_down_who_saw_it(
    clean_store: Store,
) -> None:
    clean_store.insert("traces", [a_trace(trace_id=f"old{n}") for n in range(3)], token="t")
    arriving = iter(["new0", "new1"])

    def arrive(seconds: float) -> None:
        name = next(arriving)
        clean_store.insert("traces", [a_trace(trace_id=name)], token=name)

    reader = Reader("somebody", "here")
    tailed = tail_traces(clean_store, reader, count=1, follow=True, sleep=arrive)
    seen = [row["trace_id"] for row in islice(tailed, 3)]
    shown = show_trace(clean_store, "new1", reader)

    assert seen == ["old2", "new0", "new1"]
    assert (shown.trace["trace_id"], shown.judgments, shown.feedback) == ("new1", [], [])
    reads = clean_store.query("SELECT purpose, who, trace_ids FROM body_reads ORDER BY at")
    assert [(row["purpose"], row["who"], row["trace_ids"]) for row in reads] == [
        *(("tail", "somebody", [name]) for name in seen),
        ("show", "somebody", ["new1"]),
    ]


def test_show_prints_the_conversation_attempts_judgments_and_feedback(
    embedded_config_path: Path, clean_store: Store
) -> None:
    clean_store.insert("traces", [a_trace(trace_id="t1", tags={"team": "a"}, started_at=NOW)], token="t")
    judgments = [
        Judgment(trace_id="t1", judge="valid", version="v1", score=1.0, reason="", judged_at=NOW),
        Judgment(
            trace_id="t1", judge="kept", version="v2", score=None, reason="nobody kept it", judged_at=NOW
        ),
    ]
    clean_store.insert("judgments", judgments, token="j")
    feedback = Feedback(
        feedback_id="f",
        trace_id=None,
        session="s1",
        client="",
        kind="kept",
        value=None,
        text="as kept",
        created_at=NOW,
    )
    draft, forged = (
        msgspec.structs.replace(feedback, feedback_id=word, trace_id="t1", text=word, client=client)
        for word, client in (("a draft", ""), ("forged", "other"))
    )
    clean_store.insert("feedback", [feedback, draft, forged], token="f")

    result = run_traces(embedded_config_path, "show", "t1")
    as_json = run_traces(embedded_config_path, "show", "t1", "--json")

    assert result.returncode == 0, result.stderr
    for expected in ("user\n  hello", "assistant\n  hi", "team=a", "up / m at http://127.0.0.1:9/v1: 200"):
        assert expected in result.stdout.replace(" \n", "\n").replace("  \n", "\n") or expected in _stripped(
            result
        )
    for expected in (
        "1  valid (v1)",
        "abstained  kept (v2)  nobody kept it",
        "kept (on the session)",
        "as kept",
        "(replaced by a later one)\n  a draft",
        "(another client's: counts for nothing)\n  forged",
    ):
        assert expected in _stripped(result)
    whole = json.loads(as_json.stdout)
    assert whole["trace"]["request"]["messages"][0]["content"] == "hello"
    assert [row["judge"] for row in whole["judgments"]] == ["kept", "valid"]
    assert {row["text"]: row["standing"] for row in whole["feedback"]} == {
        "as kept": "in force",
        "a draft": "replaced by a later one",
        "forged": "another client's: counts for nothing",
    }


@pytest.mark.parametrize(("training", "shown"), [(True, "may be learnt from"), (False, "kept out for good")])
def test_show_says_whether_a_trace_may_be_learnt_from(training: bool, shown: str) -> None:
    trace = a_trace(training=training)
    out = io.StringIO()

    Console(file=out, width=120).print(
        trace_view({name: getattr(trace, name) for name in trace.__struct_fields__}, [], [])
    )

    assert shown in out.getvalue()


def _stripped(result: subprocess.CompletedProcess[str]) -> str:
    return "\n".join(line.rstrip() for line in result.stdout.splitlines())


def view_of(width: int, **changes: Any) -> list[str]:
    trace = a_trace(**changes)
    row = {name: getattr(trace, name) for name in trace.__struct_fields__}
    out = io.StringIO()
    Console(file=out, width=width).print(trace_view(row, [], [], width=width))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def an_attempt(started_ms: float, ended_ms: float, **changes: Any) -> dict[str, Any]:
    times = {"started_ms": started_ms, "ended_ms": ended_ms}
    return {
        "upstream": "up",
        "server": "http://h",
        "model": "m",
        "status": 200,
        "error": None,
        **times,
        **changes,
    }


@given(
    st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e5)).map(sorted), min_size=1, max_size=4),
    st.integers(20, 200),
)
def test_attempts_are_drawn_to_scale(spans: list[list[float]], width: int) -> None:
    ends_ms = max(1.0, *(end for _, end in spans))
    lines = timeline(json.dumps([an_attempt(*span) for span in spans]), ends_ms, None, width)
    bars = [line.plain for line in lines if "━" in line.plain]
    cells = len(lines[0].plain.split(" ")[0])

    assert len(bars) == len(spans)
    for (start, end), bar in zip(spans, bars, strict=True):
        first, last = bar.index("━"), bar.rindex("━") + 1
        assert abs(first - start / ends_ms * cells) <= 1
        assert abs(last - end / ends_ms * cells) <= 1
        assert last <= cells


def test_the_timeline_shows_waits_failures_and_the_first_token() -> None:
    attempts = [
        an_attempt(0, 250, status=None, error="connect"),
        an_attempt(500, 1000, server="http://other"),
    ]
    shown = view_of(120, attempts=json.dumps(attempts), latency_ms=1000, ttft_ms=750)
    start = shown.index("attempts")

    cells = shown[start + 1].index("┤") - 1
    assert shown[start + 1] == f"  ├{'─' * (cells - 2)}┤ 1000 ms in all"
    assert shown[start + 2].strip().startswith("━" * math.ceil(cells / 4) + " ")
    assert shown[start + 2].endswith("250 ms from 0 ms  up / m at http://h: connect")
    assert shown[start + 3].index("━") - 2 == cells // 2
    assert shown[start + 3].endswith("500 ms from 500 ms  up / m at http://other: 200")
    assert shown[start + 4].index("▲") - 2 == cells * 3 // 4
    assert shown[start + 4].endswith("first token 750 ms")


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_timeline_fits_a_narrow_terminal(width: int) -> None:
    attempts = json.dumps([an_attempt(0, 100), an_attempt(100, 200)])
    shown = view_of(width, attempts=attempts, latency_ms=200)
    start = shown.index("attempts")

    assert all(len(line) <= width for line in shown)
    assert sum("━" in line for line in shown[start:]) == 2
    assert sum("up / m at http://h: 200" in line for line in shown[start:]) == 2


@pytest.mark.parametrize(
    "attempts", ["", "7", "[7]", "[{}]", "null", '[{"started_ms": "x", "ended_ms": {}}]']
)
def test_attempts_of_another_version_are_shown_as_they_are(attempts: str) -> None:
    assert [line.plain for line in timeline(attempts, 1.0, None, 100)] == [attempts]


def test_a_long_text_is_cut_on_a_terminal_and_says_how_to_see_the_rest() -> None:
    request = json.dumps({"messages": [{"role": "user", "content": "x" * 5_000}]})
    row = {name: getattr(a_trace(request=request), name) for name in a_trace().__struct_fields__}

    def shown(*, full: bool) -> str:
        out = io.StringIO()
        Console(file=out, width=100).print(trace_view(row, [], [], full=full))
        return out.getvalue()

    assert shown(full=False).count("x") < 4_100
    assert "… 1,000 more characters; --full prints them" in shown(full=False)
    assert shown(full=True).count("x") >= 5_000


def test_what_is_piped_out_of_show_is_never_cut(embedded_config_path: Path, clean_store: Store) -> None:
    request = json.dumps({"messages": [{"role": "user", "content": "x" * 5_000}]})
    clean_store.insert("traces", [a_trace(trace_id="t1", request=request)], token="t")

    assert run_traces(embedded_config_path, "show", "t1").stdout.count("x") >= 5_000


def test_an_unknown_trace_is_one_line_and_exit_1(embedded_config_path: Path, clean_store: Store) -> None:
    result = run_traces(embedded_config_path, "show", "nowhere")

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "tracetune: no trace 'nowhere' in the store; `tracetune traces tail` lists the last ones\n"
    )


@given(st.text())
def test_no_text_can_command_a_terminal(text: str) -> None:
    shown = plain(text)

    assert not any((ord(c) < 0x20 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 for c in shown)
    assert not set(shown) & set("\u202e\u2066\u200f")
    assert "\n" not in plain_line(text)
    assert plain(shown) == shown


def test_stored_text_is_shown_and_neither_obeyed_nor_taken_for_markup() -> None:
    evil = "\x1b[2J\x1b]0;title\x07 [red]not markup[/red] \u202eesrever"
    body = json.dumps({"messages": [{"role": evil, "content": evil}]})
    trace = a_trace(request=body, response=evil, route=evil, tags={evil: evil}, attempts=evil, session=evil)
    row = {name: getattr(trace, name) for name in trace.__struct_fields__}
    behind = {"criteria": [{"name": evil, "answer": evil, "quote": evil, "why": evil}]}
    judgment = {"judge": evil, "version": "v", "score": None, "reason": evil, "cost_usd": 0.1}
    judgment["detail"] = json.dumps(behind)
    feedback = {
        "trace_id": None,
        "kind": evil,
        "value": 1.0,
        "text": evil,
        "created_at": NOW,
        "standing": evil,
    }
    out = io.StringIO()

    Console(file=out, width=120).print(trace_view(row, [judgment], [feedback]))

    assert not set("\x1b\x07\u202e") & set(out.getvalue())
    assert "[red]not markup[/red]" in out.getvalue()


def test_tools_parts_and_instructions_are_part_of_a_conversation() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look_up", "arguments": '{"id":7}'}}
    parts = [{"type": "text", "text": "what is this?"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    request = {"messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": parts}]}
    response = {"choices": [{"message": {"role": "assistant", "content": None, "tool_calls": [call]}}]}
    outputs = {"output": [{"type": "message", "content": [{"type": "output_text", "text": "hi"}]}]}

    assert conversation(json.dumps(request), json.dumps(response)) == [
        Turn("system", "be kind"),
        Turn("user", "what is this?\n[image_url]"),
        Turn("assistant", 'look_up({"id":7})'),
    ]
    assert conversation(json.dumps({"instructions": "be brief", "input": "hello"}), json.dumps(outputs)) == [
        Turn("system", "be brief"),
        Turn("user", "hello"),
        Turn("assistant", "hi"),
    ]
    assert conversation('{"prompt": "once"}', '{"choices": [{"text": " upon"}]}') == [
        Turn("user", "once"),
        Turn("assistant", " upon"),
    ]
    assert conversation(None, None) == []


@given(json_values, json_values)
def test_no_body_breaks_the_view(request: object, response: object) -> None:
    turns = conversation(json.dumps(request), json.dumps(response))

    assert turns
    assert all(isinstance(turn.role, str) and isinstance(turn.text, str) for turn in turns)
