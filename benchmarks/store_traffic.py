"""Traffic for the store: conversations in English prose, spread over a month as ten million traces.

The prose is that of docstrings of installed packages, since text out of a word list compresses as no chat
does. Some 60,000 different traces are written once; each slice of the month repeats them as other sessions.
Equal bodies lie far further apart than the megabyte that a column is compressed by: repeating saves nothing.
"""

from __future__ import annotations

import json
import random
import re
import site
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from gateway.traces.store import Store

ROUTES = 10
DAYS = 30
TEMPLATES = 60_000
BLOCK = 10_000  # templates sent at a time
RECURRING = 50  # every so many sessions comes back in each slice: those have hundreds of traces
PROSE_BYTES = 24_000_000
_PACKAGES = ("numpy", "scipy", "pandas", "torch", "transformers", "datasets", "sympy", "networkx", "litestar")
_DOCSTRING = re.compile(r'"""(.*?)"""', re.DOTALL)
_PROSE = re.compile(r"^[A-Z][^{}<>|=\\]{80,600}[.!?]$")
_TABLE = """
CREATE TABLE templates
(
    n UInt32, session UInt32, turn UInt8, route String, request String, response String,
    tokens_in UInt32, tokens_out UInt32
)
ENGINE = Memory
"""
# A trace's id carries its time, as the gateway's do. Outcomes, variants and latencies follow from hashes, so
# that the same month comes out each time.
_SLICE = """
INSERT INTO traces
(
    trace_id, started_at, route, variant, snapshot, propensity, session, upstream, model, endpoint, stream,
    status, outcome, finish_reason, attempts, latency_ms, ttft_ms, tokens_in, tokens_cached, tokens_out,
    usage, cost_usd, request, response, tags, table_hash
)
WITH
    cityHash64({slice:UInt32}, n) AS h,
    cityHash64({slice:UInt32}, session, 'session') AS s,
    {start_us:Int64} + s % {length_us:Int64} + turn * 45000000 + h % 20000000 AS us,
    lower(hex(toUInt64(intDiv(us, 1000)))) AS ms,
    lower(leftPad(hex(h), 16, '0')) AS r,
    s % 10 < 3 AS canary,
    h % 1000 AS luck,
    exp(6.2 + 0.6 * sqrt(-2 * log((h % 9973 + 1) / 9974)) * cos(2 * pi() * (h % 7919) / 7919)) AS latency
SELECT
    concat(substring(ms, 1, 8), '-', substring(ms, 9, 4), '-7', substring(r, 1, 3),
           '-a', substring(r, 4, 3), '-', substring(r, 5, 12)),
    fromUnixTimestamp64Micro(us, 'UTC'),
    route,
    if(canary, 'canary', 'stable'),
    if(canary, concat(route, '-7f3a21'), NULL),
    if(canary, 0.3, 0.7),
    if(session % {recurring:UInt32} = 0, concat('user-', toString(session)),
       concat('s-', toString({slice:UInt32}), '-', toString(session))),
    if(canary, 'local', 'openai'),
    if(canary, concat(route, '-7f3a21'), 'gpt-4o-mini'),
    '/v1/chat/completions',
    h % 2,
    if(luck < 970, 200, if(luck < 985, 502, 200)),
    multiIf(luck < 970, 'ok', luck < 985, 'upstream_error', luck < 992, 'client_cancelled', 'truncated'),
    if(luck < 970, 'stop', NULL),
    concat('[{"upstream":"openai","server":"https://api.openai.com/v1","model":"gpt-4o-mini",',
           '"started_ms":0.', toString(h % 900 + 100), ',"ended_ms":', toString(round(latency, 3)),
           ',"status":200,"error":null}]'),
    latency,
    if(h % 2 = 1, latency / 5, NULL),
    tokens_in,
    tokens_in * (h % 4) DIV 4,
    tokens_out,
    concat('{"prompt_tokens":', toString(tokens_in), ',"completion_tokens":', toString(tokens_out),
           ',"total_tokens":', toString(tokens_in + tokens_out), '}'),
    (tokens_in * 0.15 + tokens_out * 0.6) / 1000000,
    request,
    response,
    map('app', if(h % 3 = 0, 'web', 'mobile')),
    'a1b2c3d4e5f6'
FROM templates WHERE n < {rows:UInt32}
SETTINGS max_insert_threads = 1, max_block_size = 32768, min_insert_block_size_rows = 65536,
         min_insert_block_size_bytes = 0
"""


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """One trace's bodies, and the place of it in its session."""

    n: int
    session: int
    turn: int
    route: str
    request: str
    response: str
    tokens_in: int
    tokens_out: int


def prose(limit_bytes: int = PROSE_BYTES) -> list[str]:
    """Paragraphs of English, each once, of at most *limit_bytes* together."""
    folders = [Path(sysconfig.get_path("stdlib"))]
    folders += [Path(place) / name for place in site.getsitepackages() for name in _PACKAGES]
    found: dict[str, None] = {}
    size = 0
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            for docstring in _DOCSTRING.findall(path.read_text(encoding="utf-8", errors="replace")):
                for block in docstring.split("\n\n"):
                    text = " ".join(block.split())
                    if _PROSE.match(text) and text not in found:
                        found[text] = None
                        size += len(text)
            if size >= limit_bytes:
                return list(found)
    return list(found)


def templates(count: int, paragraphs: list[str], seed: int = 4) -> Iterator[Template]:
    """*count* traces of chats of one to eight turns, each request with what was said before."""
    chance = random.Random(seed)
    systems = [" ".join(chance.sample(paragraphs, 4)) for _ in range(ROUTES)]
    n = session = 0
    while n < count:
        route = chance.randrange(ROUTES)
        messages: list[dict[str, Any]] = [{"role": "system", "content": systems[route]}]
        for turn in range(chance.randint(1, 8)):
            messages.append({"role": "user", "content": chance.choice(paragraphs)})
            answer = " ".join(chance.sample(paragraphs, chance.randint(1, 2)))
            if n < count:
                yield _template(n, session, turn, f"route-{route}", messages, answer, chance)
            messages.append({"role": "assistant", "content": answer})
            n += 1
        session += 1


def _template(
    n: int,
    session: int,
    turn: int,
    route: str,
    messages: list[dict[str, Any]],
    answer: str,
    chance: random.Random,
) -> Template:
    request = json.dumps({"model": route, "messages": messages, "temperature": 0.2, "stream": bool(n % 2)})
    tokens_in, tokens_out = len(request) // 4, len(answer) // 4
    response = {
        "id": f"chatcmpl-{chance.getrandbits(96):024x}",
        "object": "chat.completion",
        "created": 1_795_000_000 + n,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
        ],
        "usage": {
            "prompt_tokens": tokens_in,
            "completion_tokens": tokens_out,
            "total_tokens": tokens_in + tokens_out,
        },
        "system_fingerprint": f"fp_{chance.getrandbits(40):010x}",
    }
    return Template(
        n=n,
        session=session,
        turn=turn,
        route=route,
        request=request,
        response=json.dumps(response),
        tokens_in=tokens_in,
        tokens_out=tokens_out,
    )


def write_templates(store: Store, count: int) -> None:
    """The table `templates`, anew."""
    store.command("DROP TABLE IF EXISTS templates")
    store.command(_TABLE)
    batch: list[Template] = []
    for template in templates(count, prose()):
        batch.append(template)
        if len(batch) == BLOCK:
            store.insert("templates", batch, token=str(template.n))
            batch = []
    store.insert("templates", batch, token="last")


def write_slice(store: Store, number: int, *, start_us: int, length_us: int, rows: int) -> None:
    """*rows* traces of the templates in *length_us* microseconds from *start_us* on."""
    values = {
        "slice": number,
        "start_us": start_us,
        "length_us": length_us,
        "rows": rows,
        "recurring": RECURRING,
    }
    store.command(re.sub(r"\{(\w+):U?Int\d+\}", lambda found: str(values[found[1]]), _SLICE))
