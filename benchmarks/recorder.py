"""What a trace of 3 KB costs the recorder: from shared memory to the spool, built-in redaction rules on.

    python -m benchmarks.recorder [--rounds 9] [--traces 2000] [--name NAME]

A worker's own writer fills segments, the recorder takes them as it does in `up`, and the CPU of the process
is divided by the traces: reading, decoding, assembling, redacting, counting, encoding, appending, sealing.
Every text is another one. A streamed trace is 3 KB of text too, and ten times that on the wire. Prints one
JSON; with `--name` it is also written to `results/`.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.machine import Machine, commit, this_machine
from benchmarks.quantiles import median
from gateway.config import Config
from gateway.config.load import parse_config
from gateway.paths import paths_of
from gateway.traces.recorder import Recorder
from gateway.traces.segments import SegmentWriter, writer_name
from gateway.traces.types import Attempt, CapturedTrace, PriceTerms

RESULTS = Path(__file__).resolve().parent / "results"
TRACE_BYTES = 3_000  # of both bodies together
BOUNDS_US = {"buffered, nothing found": 60.0, "buffered, ten finds": 250.0}  # streams have none
CONFIG = """
store: {url: "embedded:./data"}
upstreams: [{name: up, base_url: "http://127.0.0.1:9/v1"}]
routes: [{model: support-bot, variants: [{name: stable, upstream: up, model: gpt-4o-mini}]}]
"""
TALK = (
    "the order was shipped on Monday and should arrive within three days please check the tracking page for "
    "details our team is happy to help you with any question about returns refunds exchange and delivery "
    "customer service account settings invoice payment method subscription plan upgrade cancel support"
)
WORDS = TALK.split()
PLACES = ("mail me at {}, please", "it is {} as always", "use {} for that", "({})", "my data: {}.")


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """CPU of one kind of trace, in microseconds: the median of the rounds, and each of them."""

    what: str
    bytes: float  # mean of both bodies, as captured
    us: float
    rounds_us: list[float]
    bound_us: float | None
    reached: bool | None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON of a run."""

    at: str
    commit: str
    machine: Machine
    traces: int
    figures: list[Figure]


def personal(draw: random.Random) -> list[str]:
    """Ten values, one or two of every kind that a conversation may hold."""
    area, number, key = draw.randrange(200, 999), draw.randrange(1000, 9999), draw.getrandbits(160)
    return [
        f"jane.doe{number}@example.com",
        f"john{area}@mail.example.org",
        f"+49 30 {area}{number}",
        f"({area}) 555-{number}",
        f"+1 {area} 555 {number}",
        "4111 1111 1111 1111",
        "DE89 3704 0044 0532 0130 00",
        f"sk-proj-{key:040x}",
        f"AKIA{key % 36**8:016X}",
        f"max.{number}@firma.de",
    ]


def prose(draw: random.Random, size: int, found: list[str]) -> str:
    """About *size* characters of talk with order numbers, dates and prices, and *found* in between."""
    parts: list[str] = []
    length = 0
    while length < size:
        kind = draw.random()
        if kind < 0.08:
            word = f"C{draw.randrange(10_000)}"
        elif kind < 0.1:
            word = f"2026-{draw.randrange(1, 12):02}-{draw.randrange(1, 28):02}"
        elif kind < 0.12:
            word = f"{draw.randrange(1, 900)}.{draw.randrange(99):02} EUR.\n"
        else:
            word = draw.choice(WORDS)
        parts.append(word)
        length += len(word) + 1
    for value in found:
        parts.insert(draw.randrange(len(parts)), draw.choice(PLACES).format(value))
    return " ".join(parts)


def bodies(draw: random.Random, found: list[str], *, stream: bool) -> tuple[bytes, list[bytes]]:
    """A request and what an upstream answered, TRACE_BYTES together; streamed, of tokens in chunks."""
    half = len(found) // 2
    size = TRACE_BYTES - 700 - sum(map(len, found))
    asked = {
        "model": "support-bot",
        "messages": [
            {"role": "system", "content": prose(draw, size // 3, [])},
            {"role": "user", "content": prose(draw, size // 3, found[:half])},
        ],
        "temperature": 0.2,
        "max_tokens": 500,
        "stream": stream,
    }
    text = prose(draw, size // 3, found[half:])
    top = {"id": f"chatcmpl-{draw.getrandbits(120):030x}", "created": 1_790_000_000, "model": "gpt-4o-mini"}
    usage = {"prompt_tokens": 320, "completion_tokens": 150, "total_tokens": 470}
    if not stream:
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        answer = {**top, "object": "chat.completion", "choices": [choice], "usage": usage}
        return json.dumps(asked).encode(), [json.dumps(answer).encode()]
    top["object"] = "chat.completion.chunk"
    pieces = [text[at : at + 5] for at in range(0, len(text), 5)]
    chunks: list[dict[str, Any]] = [
        {**top, "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}
        for piece in pieces
    ]
    chunks.append({**top, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    chunks.append({**top, "choices": [], "usage": usage})
    lines = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]
    return json.dumps(asked).encode(), [*lines, b"data: [DONE]\n\n"]


def captured(draw: random.Random, *, stream: bool) -> CapturedTrace:
    """The trace of one answer, as a worker makes it."""
    now = time.time_ns() // 1000
    unique = f"{draw.getrandbits(128):032x}"
    trace_id = f"{unique[:8]}-{unique[8:12]}-7{unique[13:16]}-8{unique[17:20]}-{unique[20:]}"
    attempt = Attempt(
        upstream="up", server="http://127.0.0.1:9", model="gpt-4o-mini", started_ms=0.1, ended_ms=800.0,
        status=200,
    )  # fmt: skip
    return CapturedTrace(
        trace_id, now, "support-bot", "stable", None, None, 1.0, "web-app", f"session-{unique[:12]}", None,
        "up", "gpt-4o-mini", "/v1/chat/completions", stream, 200, "ok", 812.5, 120.0, [attempt],
        {"app": "web"}, "0123456789abcdef", None, "full", PriceTerms(input=0.15, output=0.6), None,
    )  # fmt: skip


def measured(
    config: Config, draw: random.Random, traces: int, *, finds: bool, stream: bool
) -> tuple[float, float]:
    """CPU per trace in microseconds, and bytes per trace, of one round."""
    paths = paths_of(config)
    name = writer_name(0)
    writer = SegmentWriter(paths.segments, name, max_bytes=1 << 30, at_bound="drop_oldest")
    size = 0
    for _ in range(traces):
        request, response = bodies(draw, personal(draw) if finds else [], stream=stream)
        size += len(request) + sum(map(len, response))
        writer.append(captured(draw, stream=stream), request, response)
    writer.close()
    recorder = Recorder(config)
    started = time.process_time()
    assert recorder.step()
    spent = time.process_time() - started
    recorder.close()
    for path in paths.spool.glob("*.sealed"):
        path.unlink()
    return spent / traces * 1e6, size / traces


def run(rounds: int, traces: int) -> Result:
    """Every kind once a round, after one round that does not count."""
    kinds = {
        f"{'streamed' if stream else 'buffered'}, {'ten finds' if finds else 'nothing found'}": (
            finds,
            stream,
        )
        for stream in (False, True)
        for finds in (False, True)
    }
    spent: dict[str, list[float]] = {what: [] for what in kinds}
    sizes: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="tracetune-recorder-") as folder:
        config = parse_config(CONFIG, "benchmark", Path(folder))
        for number in range(rounds + 1):
            for what, (finds, stream) in kinds.items():
                us, sizes[what] = measured(config, random.Random(number), traces, finds=finds, stream=stream)
                if number:
                    spent[what].append(round(us, 1))
    return Result(
        at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        commit=commit(),
        machine=this_machine(),
        traces=traces,
        figures=[_figure(what, sizes[what], times) for what, times in spent.items()],
    )


def _figure(what: str, size: float, times: list[float]) -> Figure:
    us, bound_us = round(median(times), 1), BOUNDS_US.get(what)
    reached = None if bound_us is None else us <= bound_us
    return Figure(what=what, bytes=round(size), us=us, rounds_us=times, bound_us=bound_us, reached=reached)


def main(arguments: list[str]) -> int:
    """Run, print, and write where a name is given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recorder", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--traces", type=int, default=2_000)
    parser.add_argument("--name", help="of the file in results/")
    options = parser.parse_args(arguments)
    text = msgspec.json.format(msgspec.json.encode(run(options.rounds, options.traces)), indent=2).decode()
    print(text)
    if options.name is not None:
        (RESULTS / f"{options.name}.json").write_text(f"{text}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
