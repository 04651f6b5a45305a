"""The demo's app: turns customer messages into tickets with the official `openai` client.

All it knows of tracetune is its `base_url`, and that it may report what an agent kept: `POST /api/feedback`.
Its agents are simulated: they know the truth, keep a right ticket, correct a wrong one, or say nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice

import httpx
import msgspec
import openai
from openai.types.chat import ChatCompletionMessageParam

from demo.messages import SEED, SYSTEM_PROMPT, Message, messages

ROUTE = "ticket-bot"
MAX_TOKENS = 96  # of an answer; the longest ticket takes about 50
PAUSE_AFTER_ERROR_S = 1.0
FEEDBACK_TIMEOUT_S = 10.0
CUT_SHORT = "stream cut short"


class AppOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the app does. `messages` None: until told to stop. `skip`: messages that an earlier run sent."""

    base_url: str
    messages: int | None = None
    skip: int = 0
    model: str = ROUTE
    api_key: str = "none"
    in_flight: int = 8
    stream_share: float = 0.3
    feedback_share: float = 0.9
    agent_delay_s: float = 0.5  # from the answer to what the agent says of it
    timeout_s: float = 120.0
    seed: int = SEED


class Report(msgspec.Struct, kw_only=True):
    """What the app saw. `errors` are those that reached it, by kind; it goes on after each."""

    answered: int = 0
    streamed: int = 0
    kept: int = 0  # tickets that the agent left as they were
    corrected: int = 0
    silent: int = 0  # answers that nobody said anything of
    errors: Counter[str] = msgspec.field(default_factory=Counter)
    latencies_s: list[float] = []

    @property
    def finished(self) -> int:
        """Messages that were sent and came back, as an answer or as an error."""
        return self.answered + sum(count for kind, count in self.errors.items() if "feedback" not in kind)

    def latency_s(self, quantile: float) -> float | None:
        """Of the answers, from the request to the last byte; None without any."""
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))] if ordered else None


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One customer message and what will happen with it: each is a session of its own."""

    name: str
    message: Message
    stream: bool
    agent_speaks: bool


async def run_app(
    options: AppOptions,
    *,
    stop: asyncio.Event | None = None,
    progress: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Send the messages, `in_flight` at a time. Ends early when *stop* is set; what is in flight is finished.

    *progress* is told after each message. An error of the API is counted and never raised.
    """
    report = Report()
    sessions = _sessions(options)
    stop = stop or asyncio.Event()
    agents: set[asyncio.Task[None]] = set()
    feedback_url = options.base_url.rstrip("/").removesuffix("/v1") + "/api/feedback"
    async with (
        openai.AsyncOpenAI(
            base_url=options.base_url, api_key=options.api_key, timeout=options.timeout_s, max_retries=0
        ) as client,
        httpx.AsyncClient(
            headers={"authorization": f"Bearer {options.api_key}"}, timeout=FEEDBACK_TIMEOUT_S
        ) as feedback,
    ):

        async def agent(session: Session, answer: str) -> None:
            await asyncio.sleep(options.agent_delay_s)
            await _give_feedback(feedback, feedback_url, session, answer, report)

        async def send_some() -> None:
            while not stop.is_set() and (session := next(sessions, None)) is not None:
                answer = await _ask(client, options.model, session, report)
                progress(report)
                if answer is None:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), PAUSE_AFTER_ERROR_S)
                elif session.agent_speaks:
                    task = asyncio.create_task(agent(session, answer))
                    agents.add(task)
                    task.add_done_callback(agents.discard)
                else:
                    report.silent += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(options.in_flight):
                group.create_task(send_some())
        await asyncio.gather(*agents)
    return report


def _sessions(options: AppOptions) -> Iterator[Session]:
    run = uuid.uuid4().hex[:8]
    chance = random.Random(options.seed)  # noqa: S311 -- a repeatable demo, no secret
    end = None if options.messages is None else options.skip + options.messages
    for index, message in enumerate(islice(messages(options.seed), end)):
        session = Session(
            name=f"{run}-{index}",
            message=message,
            stream=chance.random() < options.stream_share,
            agent_speaks=chance.random() < options.feedback_share,
        )
        if index >= options.skip:
            yield session


async def _ask(client: openai.AsyncOpenAI, model: str, session: Session, report: Report) -> str | None:
    """The ticket as the model wrote it; None after an error, which is counted."""
    prompt: list[ChatCompletionMessageParam] = [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": session.message.text},
    ]
    headers = {
        "x-tracetune-session": session.name,
        "x-tracetune-tag-templates": "seen" if session.message.seen else "unseen",
    }
    started = time.monotonic()
    try:
        if session.stream:
            answer = await _streamed(client, model, prompt, headers)
        else:
            completion = await client.chat.completions.create(
                model=model, messages=prompt, max_tokens=MAX_TOKENS, temperature=0, extra_headers=headers
            )
            answer = completion.choices[0].message.content
    except openai.APIStatusError as error:
        report.errors[f"status {error.status_code}"] += 1
        return None
    except (openai.APIError, httpx.HTTPError) as error:
        report.errors[type(error).__name__] += 1
        return None
    if answer is None:
        report.errors[CUT_SHORT] += 1
        return None
    report.answered += 1
    report.streamed += session.stream
    report.latencies_s.append(time.monotonic() - started)
    return answer


async def _streamed(
    client: openai.AsyncOpenAI,
    model: str,
    prompt: list[ChatCompletionMessageParam],
    headers: dict[str, str],
) -> str | None:
    """The whole text; None where the stream ended without saying why it is finished."""
    pieces: list[str] = []
    finished = False
    stream = await client.chat.completions.create(
        model=model,
        messages=prompt,
        max_tokens=MAX_TOKENS,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_headers=headers,
    )
    async for chunk in stream:
        for choice in chunk.choices:
            pieces.append(choice.delta.content or "")
            finished = finished or choice.finish_reason is not None
    return "".join(pieces) if finished else None


async def _give_feedback(
    client: httpx.AsyncClient, url: str, session: Session, answer: str, report: Report
) -> None:
    """What the agent saved in the end: always the true ticket, whatever the model wrote."""
    truth = session.message.ticket
    if _as_json(answer) == msgspec.to_builtins(truth):
        report.kept += 1
    else:
        report.corrected += 1
    try:
        response = await client.post(url, json={"session": session.name, "kept": msgspec.to_builtins(truth)})
    except httpx.HTTPError as error:
        report.errors[f"feedback {type(error).__name__}"] += 1
        return
    if response.is_error:
        report.errors[f"feedback status {response.status_code}"] += 1


def _as_json(answer: str) -> object:
    try:
        return msgspec.json.decode(answer)
    except msgspec.DecodeError:
        return None


def main() -> None:
    """`python -m demo.app --base-url URL --messages N`: sends, and prints one line of JSON in the end."""
    parser = argparse.ArgumentParser(prog="python -m demo.app", description=main.__doc__)
    parser.add_argument("--base-url", required=True, help="for example http://127.0.0.1:8080/v1")
    parser.add_argument("--messages", type=int, help="how many; without it, until interrupted")
    parser.add_argument("--skip", type=int, default=0, help="messages that an earlier run sent")
    parser.add_argument("--in-flight", type=int, default=8)
    parser.add_argument("--api-key", default="none")
    arguments = parser.parse_args()
    report = asyncio.run(_run_until_signal(AppOptions(**vars(arguments))))
    summary = msgspec.to_builtins(report) | {
        "latencies_s": {name: report.latency_s(at) for name, at in (("p50", 0.5), ("p95", 0.95))}
    }
    sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")


async def _run_until_signal(options: AppOptions) -> Report:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return await run_app(options, stop=stop)


if __name__ == "__main__":
    main()
