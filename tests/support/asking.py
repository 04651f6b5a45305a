"""What tests of judges that ask models need: a rubric, a configuration over scripted upstreams, replies."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gateway.config import Config, JudgeConfig, Route, Upstream, Variant
from judges.definition import definition_of
from judges.executor import executor_of
from judges.trace import JudgedTrace, stored_row, trace_from
from judges.wire import Answer, Task
from tests.support.upstream import Received, Reply, Script, answers

RUBRIC = """\
task: Answers questions about orders.
criteria:
  - {name: polite, question: "Is the answer polite?"}
  - {name: correct, question: "Does the answer name the order?", weight: 3}
"""
MODEL = "judge-model"


def rubric_file(folder: Path, text: str = RUBRIC) -> Path:
    path = folder / "rubric.yaml"
    path.write_text(text)
    return path


def a_config(base_url: str | None, *, routes: Sequence[Route] = (), **upstream: Any) -> Config:
    """One upstream `judging`, and the route that `trace_from` writes unless told otherwise."""
    entry = Upstream(name="judging", **({"base_url": base_url} | upstream))
    return Config(upstreams=[entry], routes=list(routes) or [a_route("route")])


def a_route(model: str, **changes: Any) -> Route:
    return Route(model=model, variants=[Variant(name="stable", upstream="judging", model="m")], **changes)


def a_judge(folder: Path, **changes: Any) -> JudgeConfig:
    values: dict[str, Any] = {"name": "asks", "kind": "llm", "upstream": "judging", "model": MODEL}
    if changes.get("kind") != "embedding":
        values["rubric"] = rubric_file(folder, changes.pop("rubric_text", RUBRIC))
    return JudgeConfig(**values | changes)


def a_task(answer: str = "Order 7 is on its way.", **changes: Any) -> Task:
    messages = [{"role": "user", "content": "Where is order 7?"}]
    trace = trace_from(**{"answer": answer, "request": {"messages": messages}} | changes)
    return task_of(trace)


def task_of(trace: JudgedTrace) -> Task:
    return Task(trace=stored_row(trace), feedback=list(trace.feedback))


def verdicts(config: Config, judge: JudgeConfig, *tasks: Task) -> list[Answer]:
    """What *judge* says of *tasks*."""
    with executor_of(config, judge, definition_of(judge)) as executor:
        executor.start()
        return list(executor.judge(tasks))


def said(answer: str, quote: str = "Order 7", why: str = "It says so.") -> str:
    return json.dumps({"answer": answer, "quote": quote, "why": why})


def better(place: str) -> str:
    return json.dumps({"better": place, "quote": "", "why": "It is."})


def says(decide: Callable[[str], str], **fields: Any) -> Script:
    """Answers with what *decide* makes of the user's message."""

    async def script(received: Received, reply: Reply) -> None:
        await answers(decide(user_text(received)), **fields)(received, reply)

    return script


def user_text(received: Received) -> str:
    return str(received.json()["messages"][-1]["content"])


def system_text(received: Received) -> str:
    return str(received.json()["messages"][0]["content"])
