"""What a trace looks like on a terminal: rows in, rich renderables out, the text of others neutralised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gateway.cli.conversation import conversation
from gateway.cli.judgment_view import behind_score
from gateway.cli.terminal import plain, plain_line
from gateway.cli.timeline import duration, timeline
from gateway.traces.feedback import IN_FORCE

SHOWN_CHARACTERS = 4_000  # of a message or an answer, unless all is asked for
WIDTH = 100  # of a terminal that does not say
ONE_LINE_CELLS = 120  # on a narrower terminal the time, the id and the route leave no room for the rest
TIME_INDENT = " " * len("HH:MM:SS ")
INDENT = 2  # of what stands under a heading
_ROLE_STYLES = {"user": "bold cyan", "assistant": "bold green", "error": "bold red"}

Row = dict[str, Any]


def tail_line(row: Row, width: int | None = None) -> Text:
    """One trace on one line, on two where *width* cells are too few; None: as long as it takes."""
    good = row["outcome"] == "ok"
    when = Text.assemble((f"{row['started_at']:%H:%M:%S}", "dim"), f" {plain_line(row['trace_id'])} ")
    arm = Text(plain_line(f"{row['route'] or row['model']}@{row['variant'] or '-'}"), "bold")
    ended = Text.assemble(
        (f"{row['outcome']} {row['status']}", "green" if good else "red"), f" {duration(row['latency_ms'])}"
    )
    rest = Text.assemble(f" {_tokens(row)} {_cost(row['cost_usd'])} ", (plain_line(row["question"]), "dim"))
    if width is None or width >= ONE_LINE_CELLS:
        lines = [Text.assemble(when, arm, " ", ended, rest)]
    else:
        lines = [Text.assemble(when, ended), Text.assemble(TIME_INDENT, arm, rest)]
    if width is not None:
        for line in lines:
            line.truncate(width, overflow="ellipsis")
    return Text("\n").join(lines)


def trace_view(
    trace: Row, judgments: Sequence[Row], feedback: Sequence[Row], *, width: int = WIDTH, full: bool = False
) -> RenderableType:
    """One trace with all that is known of it, for a terminal of *width*; long texts are cut unless *full*."""
    parts: list[RenderableType] = [_facts(trace), Text()]
    turns = conversation(trace["request"], trace["response"])
    for role, text in turns:
        parts += [
            Text(plain_line(role), _ROLE_STYLES.get(role, "bold")),
            Padding(_said(text, full=full), (0, 0, 1, INDENT)),
        ]
    if not turns:
        parts.append(Text("no bodies were stored: the route captures metadata only\n", "dim"))
    lines = timeline(trace["attempts"], trace["latency_ms"], trace["ttft_ms"], width - INDENT)
    parts += _section("attempts", lines)
    parts += _section("judgments", [_judgment(row) for row in judgments])
    parts += _section("feedback", [_feedback(row) for row in feedback])
    return Group(*parts)


def _said(text: str, *, full: bool) -> Text:
    more = len(text) - SHOWN_CHARACTERS
    if full or more <= 0:
        return Text(plain(text))
    hint = f"\n… {more:,} more characters; --full prints them"
    return Text.assemble(plain(text[:SHOWN_CHARACTERS]), (hint, "dim"))


def _facts(trace: Row) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in (
        ("trace", f"{trace['trace_id']}  {trace['started_at']:%Y-%m-%d %H:%M:%S.%f} UTC"),
        ("route", f"{trace['route'] or '-'} @ {trace['variant'] or '-'}{_rollout(trace)}"),
        ("served by", f"{trace['upstream']} / {trace['model']}"),
        (
            "outcome",
            f"{trace['outcome']}, {trace['status']}, finish reason {trace['finish_reason'] or 'unknown'}",
        ),
        ("took", f"{duration(trace['latency_ms'])}, first token {duration(trace['ttft_ms'])}"),
        ("tokens", f"{_tokens(trace)}, {_known(trace['tokens_cached'])} cached, {_cost(trace['cost_usd'])}"),
        (
            "session",
            f"{trace['session']}  subject {trace['subject'] or '-'}  client {trace['client'] or '-'}",
        ),
        ("tags", ", ".join(f"{name}={value}" for name, value in trace["tags"].items()) or "-"),
        ("training", "may be learnt from" if trace["training"] else "kept out for good, as its client says"),
    ):
        table.add_row(Text(name, "dim"), Text(plain_line(value)))
    return table


def _judgment(row: Row) -> Text:
    score = "abstained" if row["score"] is None else f"{row['score']:.3g}"
    said = f"  {row['reason']}" if row["reason"] else ""
    paid = "" if row["cost_usd"] is None else f"  {_cost(row['cost_usd'])}"
    behind = "".join(f"\n{'':>9}  {plain_line(line)}" for line in behind_score(row["detail"]))
    return Text.assemble(
        (f"{score:>9}", "bold"), plain(f"  {row['judge']} ({row['version']}){said}{paid}"), (behind, "dim")
    )


def _feedback(row: Row) -> Text:
    value = "" if row["value"] is None else f" {row['value']:.3g}"
    about = " (on the session)" if row["trace_id"] is None else ""
    standing = "" if row["standing"] == IN_FORCE else f"  ({row['standing']})"
    text = f"\n{row['text']}" if row["text"] else ""
    said = plain(f"{row['kind']}{value}{about}  {row['created_at']:%Y-%m-%d %H:%M:%S}{standing}{text}")
    return Text(said, "dim" if standing else "")


def _section(title: str, lines: Sequence[RenderableType]) -> list[RenderableType]:
    shown = lines or [Text("none", "dim")]
    return [Text(title, "bold"), *(Padding(line, (0, 0, 0, INDENT)) for line in shown)]


def _rollout(trace: Row) -> str:
    snapshot = f", snapshot {trace['snapshot']}" if trace["snapshot"] else ""
    if trace["imported"]:
        return ", from another tool's log"
    share = "pinned" if trace["propensity"] is None else f"chosen with probability {trace['propensity']:g}"
    return f"{snapshot}, {share}" + (f", rollout {trace['rollout']}" if trace["rollout"] else "")


def _tokens(row: Row) -> str:
    return f"{_known(row['tokens_in'])}→{_known(row['tokens_out'])} tokens"


def _cost(usd: float | None) -> str:
    return "$?" if usd is None else f"${usd:.6f}"


def _known(value: int | None) -> str:
    return "?" if value is None else str(value)
