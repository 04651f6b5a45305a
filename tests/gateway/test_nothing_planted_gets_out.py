"""Law 13 in a running system: what a rule covers is in no file, row, log, metric or answer of ours."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from gateway.traces.redaction.redact import BUILTIN, Redactor
from tests.support.planted import LOOK_ALIKES, Planted, forms_of, planted
from tests.support.system import System, free_port, running_system, tracetune
from tests.support.upstream import ScriptedUpstream, answers, answers_status, streams

SEED = 20261125
TABLES = ("traces", "feedback", "judgments", "rollouts")
PAGES = ("/metrics", "/readyz", "/healthz", "/api/routes", "/api/rollouts", "/api/upstreams")
CONFIG = """
listen: {{host: 127.0.0.1, port: {port}}}
store: {{url: "embedded:./data"}}
privacy: {{patterns: [{{name: CUSTOMER_NO, pattern: 'K-[0-9]{{8}}'}}]}}
upstreams: [{{name: up, base_url: "{upstream}", default: true, retries: {{max: 0}}}}]
routes: [{{model: bot, variants: [{{name: stable, upstream: up, model: m}}]}}]
"""

Carrier = Callable[["Client", str], None]


class Client:
    """Sends what carriers make up, and knows how many rows are to be stored."""

    def __init__(self, system: System, upstream: ScriptedUpstream) -> None:
        self.http = httpx.Client(base_url=system.base_url.removesuffix("/v1"), trust_env=False, timeout=30)
        self.upstream = upstream
        self.traces = self.feedback = 0

    def ask(self, body: Any, **headers: str) -> httpx.Response:
        """One chat completion; *body* is JSON, bytes, or the text of a message."""
        if isinstance(body, str):
            body = {"model": "bot", "messages": [{"role": "user", "content": body}]}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {
            "content-type": "application/json",
            **{name.replace("_", "-"): text for name, text in headers.items()},
        }
        answer = self.http.post("/v1/chat/completions", content=content, headers=sent)
        self.traces += 1
        return answer

    def say(self, **fields: Any) -> None:
        trace_id = self.ask("hello").headers["x-tracetune-trace-id"]
        given = self.http.post("/api/feedback", json={"trace_id": trace_id, **fields})
        assert given.status_code == 202, given.text
        self.feedback += 1


def in_a_message(client: Client, text: str) -> None:
    client.ask(f"My data: {text}. Thanks!")


def in_escapes(client: Client, text: str) -> None:
    escaped = "".join(f"\\u{ord(char):04x}" for char in text)
    client.ask(b'{"model": "bot", "messages": [{"role": "user", "content": "' + escaped.encode() + b'"}]}')


def in_an_answer(client: Client, text: str) -> None:
    client.upstream.then(answers(f"You said {text}, right?"))
    client.ask("again")


def in_a_stream(client: Client, text: str) -> None:
    whole = f"You said {text}, right?"
    client.upstream.then(streams([whole[at : at + 3] for at in range(0, len(whole), 3)]))
    client.ask({"model": "bot", "stream": True, "messages": [{"role": "user", "content": "again"}]})


def in_tool_arguments(client: Client, text: str) -> None:
    call = {
        "id": "c",
        "type": "function",
        "function": {"name": "f", "arguments": json.dumps({"a": [f"x {text}"]})},
    }
    client.ask({"model": "bot", "messages": [{"role": "assistant", "tool_calls": [call]}]})


def in_a_url(client: Client, text: str) -> None:
    client.ask(f"see https://example.com/?q=a%20b&v={quote(text, safe='')}&x=1")


def in_a_file_name(client: Client, text: str) -> None:
    part = {
        "type": "file",
        "file": {"filename": f"{text}.pdf", "file_data": "data:application/pdf;base64,AAAA"},
    }
    client.ask({"model": "bot", "messages": [{"role": "user", "content": [part]}]})


def as_a_key(client: Client, text: str) -> None:
    client.ask({"model": "bot", "messages": [], "metadata": {"plan": "x"}, "x": {text: {"n": 1}}})


def in_a_refusal(client: Client, text: str) -> None:
    client.upstream.then(answers_status(400, {"error": {"message": f"bad value {text}", "code": text}}))
    client.ask("again")


def in_broken_json(client: Client, text: str) -> None:
    client.upstream.then(answers(json.dumps({"a": f"x {text} "})[:-2]))
    client.ask("again")


def as_a_session(client: Client, text: str) -> None:
    client.ask("hello", x_tracetune_session=text)


def as_a_subject(client: Client, text: str) -> None:
    client.ask({"model": "bot", "messages": [], "user": text})


def in_metadata(client: Client, text: str) -> None:
    client.ask({"model": "bot", "messages": [], "metadata": {"session_id": text}})


def in_a_tag(client: Client, text: str) -> None:
    client.ask("hello", x_tracetune_tag_who=text)


def as_a_model(client: Client, text: str) -> None:
    client.ask({"model": text, "messages": []})


def in_a_traceparent(client: Client, text: str) -> None:
    client.ask("hello", traceparent=f"00-{text}")


def in_a_query(client: Client, text: str) -> None:
    client.http.post(
        f"/v1/chat/completions?who={quote(text, safe='')}", json={"model": "bot", "messages": []}
    )
    client.traces += 1


def in_a_comment(client: Client, text: str) -> None:
    client.say(comment=f"call {text} now")


def in_a_kept_answer(client: Client, text: str) -> None:
    client.say(kept=json.dumps({"to": text}))


ANYWHERE: tuple[Carrier, ...] = (
    *(
        in_a_message,
        in_escapes,
        in_an_answer,
        in_a_stream,
        in_tool_arguments,
        in_a_url,
        in_a_file_name,
        as_a_key,
    ),
    *(
        in_a_refusal,
        in_broken_json,
        as_a_subject,
        in_metadata,
        as_a_model,
        in_a_query,
        in_a_comment,
        in_a_kept_answer,
    ),
)
IN_ONE_LINE: tuple[Carrier, ...] = (as_a_session, in_a_tag, in_a_traceparent)


def values() -> list[Planted]:
    draw = random.Random(SEED)
    own = [Planted("CUSTOMER_NO", f"K-{draw.randrange(10**7, 10**8)}") for _ in range(12)]
    return [*planted(draw), *own]


@pytest.mark.slow
def test_no_planted_value_is_in_any_file_row_log_metric_or_answer(tmp_path: Path) -> None:
    secrets = values()
    assert len({one.value for one in secrets}) == len(secrets) >= 200
    config_path = tmp_path / "tracetune.yaml"
    with ScriptedUpstream() as upstream:
        upstream.default = answers("Fine.")
        config_path.write_text(CONFIG.format(port=free_port(), upstream=upstream.base_url))
        with running_system(config_path) as system:
            client = Client(system, upstream)
            for number, one in enumerate(secrets):
                carriers = ANYWHERE if "\n" in one.text else (*ANYWHERE, *IN_ONE_LINE)
                carriers[number % len(carriers)](client, one.text)
            for text in LOOK_ALIKES:
                in_a_message(client, text)
            seen = _seen(system, client)
        seen += _files(tmp_path)
    leaks = [
        (one.kind, number, where)
        for number, one in enumerate(secrets)
        for form in forms_of(one.value)
        for where, content in seen
        if form in content
    ]
    assert leaks == []
    rows = dict(seen)["table traces"].decode()
    assert [text for text in LOOK_ALIKES if json.dumps(json.dumps(text)[1:-1])[1:-1] not in rows] == []
    placeholders = set(re.findall(r"\[([A-Z_]+)_[0-9a-f]{6,16}\]", rows))
    assert placeholders == {one.kind for one in secrets}


def _seen(system: System, client: Client) -> list[tuple[str, bytes]]:
    """What the store, the pages and the commands show, once everything is stored."""
    for table, count in (("traces", client.traces), ("feedback", client.feedback)):
        system.wait_rows(f"SELECT count() AS n FROM {table}", lambda rows, n=count: rows[0]["n"] == n, 30)
    seen = []
    with system.store() as store:
        for table in TABLES:
            rows = store.query(f"SELECT * FROM {table}")
            seen.append((f"table {table}", json.dumps(rows, default=str, ensure_ascii=False).encode()))
        trace_ids = [row["trace_id"] for row in store.query("SELECT trace_id FROM traces LIMIT 3")]
    seen += [(page, client.http.get(page).content) for page in PAGES]
    for command in (["tail", "-n", "1000"], *(["show", trace_id] for trace_id in trace_ids)):
        done = tracetune("traces", *command, "--config", str(system.config_path))
        assert done.returncode == 0, done.stderr
        seen.append((f"traces {command[0]}", done.stdout.encode()))
    return seen


def _files(folder: Path) -> list[tuple[str, bytes]]:
    return [
        (str(path.relative_to(folder)), path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file() and path.name != "tracetune.yaml"
    ]


@pytest.mark.parametrize("one", planted(random.Random(SEED)), ids=lambda one: one.kind)
def test_every_planted_value_is_found_by_its_rule_alone_and_in_any_text(one: Planted) -> None:
    redactor = Redactor(b"k" * 32, BUILTIN)
    for text in (one.text, f"({one.text})", f"a: {one.text}, b", f"é{one.before and ' '}{one.text}é"):
        stored = redactor.text(text, "s")
        assert one.value not in stored
        assert f"[{one.kind}_" in stored
