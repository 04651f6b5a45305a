"""The demo's dear, slow upstream, plainly a stand-in: it knows the truth and errs in one answer of six.

`python -m demo.frontier --port N --delay-s 6` speaks OpenAI's chat completions, buffered and streamed. Errors
and delays depend on the message alone, so that the same message always gets the same answer.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import date, timedelta
from typing import Any

import msgspec
import uvicorn

from demo.messages import INTENTS, SEED, Message, Ticket, truth

MODEL = "frontier-large"
KNOWN_MESSAGES = 20_000  # of the stream; more than any demo sends
WRONG_ONE_OF = 6
JITTER = 0.3  # of the delay, to either side
REASONING_TOKENS = 320  # billed as output, as reasoning models do
STREAM_PIECES = 12
MAX_BODY_BYTES = 1_000_000

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What the model says, after how many seconds, and the tokens it bills."""

    text: str
    delay_s: float
    tokens_in: int
    reasoning_tokens: int

    @property
    def usage(self) -> dict[str, Any]:
        tokens_out = self.reasoning_tokens + tokens_of(self.text)
        return {
            "prompt_tokens": self.tokens_in,
            "completion_tokens": tokens_out,
            "total_tokens": self.tokens_in + tokens_out,
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


def reply_to(messages: list[dict[str, Any]], known: Mapping[str, Message], delay_s: float) -> Reply:
    """The reply to a conversation: to its last message, if the generator wrote it. Pure."""
    text = str(messages[-1].get("content", ""))
    drawn = hashlib.sha256(text.encode()).digest()
    message = known.get(text)
    answer = "I only know the messages of the demo." if message is None else answer_to(message, drawn)
    return Reply(
        text=answer,
        delay_s=delay_s * (1 - JITTER + 2 * JITTER * drawn[0] / 255),
        tokens_in=sum(4 + tokens_of(str(entry.get("content", ""))) for entry in messages),
        reasoning_tokens=round(REASONING_TOKENS * (0.5 + drawn[1] / 255)),
    )


def answer_to(message: Message, drawn: bytes) -> str:
    """The true ticket, or in one case of WRONG_ONE_OF a plausible error of one of five kinds."""
    ticket = message.ticket
    if int.from_bytes(drawn[2:6]) % WRONG_ONE_OF:
        return ticket.json()
    day = date.fromisoformat(ticket.date)
    match drawn[6] % 5:
        case 0:
            return msgspec.structs.replace(ticket, intent=_other(INTENTS, ticket.intent, drawn[7])).json()
        case 1:
            return msgspec.structs.replace(ticket, date=(day + timedelta(days=1)).isoformat()).json()
        case 2:
            priority = _other(("low", "normal", "high"), ticket.priority, drawn[7])
            return msgspec.structs.replace(ticket, priority=priority).json()
        case 3:
            return f"Here is the ticket:\n{ticket.json()}"
        case _:
            return _misread(ticket).json()


def tokens_of(text: str) -> int:
    """About as many tokens as a large model's tokenizer makes of *text*."""
    return max(1, round(len(text) / 4))


def _other(choices: tuple[str, ...], value: str, drawn: int) -> str:
    others = [choice for choice in choices if choice != value]
    return others[drawn % len(others)]


def _misread(ticket: Ticket) -> Ticket:
    """The order id with its last two digits swapped, or its last digit changed where they are equal."""
    order = ticket.order_id
    swapped = order[:-2] + order[-1] + order[-2]
    return msgspec.structs.replace(
        ticket, order_id=swapped if swapped != order else f"{order[:-1]}{(int(order[-1]) + 1) % 10}"
    )


class Frontier:
    """The ASGI application."""

    def __init__(self, known: Mapping[str, Message], delay_s: float) -> None:
        self._known = known
        self._delay_s = delay_s
        self._served = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        place = (scope["method"], scope["path"])
        if place == ("POST", "/v1/chat/completions"):
            await self._complete(receive, send)
        elif place == ("GET", "/v1/models"):
            await _json(send, 200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        elif place == ("GET", "/health"):
            await _json(send, 200, {"served": self._served})
        else:
            await _error(send, 404, f"{place[0]} {place[1]} is not served here")

    async def _complete(self, receive: Receive, send: Send) -> None:
        try:
            request = msgspec.json.decode(await _body(receive), type=dict[str, Any])
            messages = msgspec.convert(request["messages"], list[dict[str, Any]])
            reply = reply_to(messages, self._known, self._delay_s)
        except (msgspec.MsgspecError, KeyError, IndexError):
            await _error(send, 400, "the body is no chat completion request")
            return
        gone = asyncio.create_task(_disconnected(receive))
        try:
            if not await _wait(reply.delay_s, gone):
                return
            self._served += 1
            if request.get("stream"):
                options = request.get("stream_options") or {}
                await _stream(send, reply, with_usage=bool(options.get("include_usage")))
            else:
                message = {"role": "assistant", "content": reply.text}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                await _json(
                    send, 200, {**_head("chat.completion"), "choices": [choice], "usage": reply.usage}
                )
        finally:
            gone.cancel()


async def _stream(send: Send, reply: Reply, *, with_usage: bool) -> None:
    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    head = _head("chat.completion.chunk")
    width = -(-len(reply.text) // STREAM_PIECES)
    pieces = [reply.text[start : start + width] for start in range(0, len(reply.text), width)]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, *({"content": p} for p in pieces)]
    events = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    events.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if with_usage:
        events.append({**head, "choices": [], "usage": reply.usage})
    for event in events:
        body = b"data: " + msgspec.json.encode(event) + b"\n\n"
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await asyncio.sleep(0.005)
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def _head(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-demo", "object": kind, "created": 0, "model": MODEL}


async def _wait(seconds: float, gone: asyncio.Task[None]) -> bool:
    """Think for *seconds*; False when the client left meanwhile."""
    done, _ = await asyncio.wait({gone}, timeout=seconds)
    return not done


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _body(receive: Receive) -> bytes:
    body = b""
    while len(body) <= MAX_BODY_BYTES:
        event = await receive()
        body += bytes(event.get("body", b""))
        if not event.get("more_body", False):
            return body
    raise msgspec.DecodeError(f"longer than {MAX_BODY_BYTES} bytes")


async def _json(send: Send, status: int, value: object) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": msgspec.json.encode(value)})


async def _error(send: Send, status: int, message: str) -> None:
    await _json(
        send,
        status,
        {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}},
    )


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        event = await receive()
        await send({"type": f"{event['type']}.complete"})
        if event["type"] == "lifespan.shutdown":
            return


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m demo.frontier", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--delay-s", type=float, default=6.0, help="mean time to an answer")
    parser.add_argument("--seed", type=int, default=SEED, help="of the messages that are known")
    options = parser.parse_args(arguments)
    app = Frontier(truth(options.seed, KNOWN_MESSAGES), options.delay_s)
    uvicorn.run(
        app,
        host=options.host,
        port=options.port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=2,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
