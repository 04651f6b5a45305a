"""What somebody with the official client sees: the objects, and how it ended."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import openai
from pydantic import BaseModel

Kind = Literal["sync", "async"]
KINDS: tuple[Kind, ...] = ("sync", "async")
Call = Callable[[Any], Any]  # of a client, sync or async: `lambda client: client.models.list()`

# Headers that a program reads from an error.
READ = ("x-request-id", "retry-after", "retry-after-ms", "x-ratelimit-remaining-requests", "content-type")


@dataclass
class Seen:
    """`objects` in the order they came, each with its type; `error` describes the exception that ended them."""

    objects: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    request_ids: list[str | None] = field(default_factory=list)
    error: dict[str, Any] | None = None

    def add(self, item: Any) -> None:
        assert isinstance(item, BaseModel)
        # Base64 that was asked for is of another type than the client declares, which it warns of.
        self.objects.append((type(item).__name__, item.model_dump(warnings=False)))
        self.request_ids.append(getattr(item, "_request_id", None))

    @property
    def last(self) -> dict[str, Any]:
        return self.objects[-1][1]


class Talk:
    """A conversation through one client, sync or async alike. What it gives is noted in `objects`, in order."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.objects: list[tuple[str, dict[str, Any]]] = []

    async def get(self, answer: Any) -> Any:
        """One whole answer."""
        return self._note(await answer if inspect.isawaitable(answer) else answer)

    async def take(self, answer: Any) -> list[Any]:
        """All of one stream."""
        stream = await answer if inspect.isawaitable(answer) else answer
        items = [item async for item in stream] if hasattr(stream, "__aiter__") else list(stream)
        return [self._note(item) for item in items]

    async def collect(self, helper: Any, final: str) -> Any:
        """All events of the client's own helper for streams, and what its method *final* makes of them."""
        if hasattr(helper, "__aenter__"):
            async with helper as stream:
                await self.take(stream)
                return self._note(await getattr(stream, final)())
        with helper as stream:
            await self.take(stream)
            return self._note(getattr(stream, final)())

    def _note(self, item: Any) -> Any:
        assert isinstance(item, BaseModel)
        self.objects.append((type(item).__name__, item.model_dump(warnings=False)))
        return item


def converse(
    kind: Kind, base_url: str, conversation: Callable[[Talk], Awaitable[None]]
) -> list[tuple[str, dict[str, Any]]]:
    """The objects that *conversation* is given at *base_url*."""

    async def run() -> Talk:
        if kind == "async":
            async with openai.AsyncOpenAI(base_url=base_url, api_key="k", max_retries=0) as client:
                talk = Talk(client)
                await conversation(talk)
                return talk
        with openai.OpenAI(base_url=base_url, api_key="k", max_retries=0) as client:
            talk = Talk(client)
            await conversation(talk)
            return talk

    return asyncio.run(run()).objects


def see(kind: Kind, base_url: str, call: Call) -> Seen:
    """Make *call* at *base_url* and take all that comes of it; the client raises ValueError for no embeddings."""
    return _see(base_url, call) if kind == "sync" else asyncio.run(_see_async(base_url, call))


def _see(base_url: str, call: Call) -> Seen:
    seen = Seen()
    with openai.OpenAI(base_url=base_url, api_key="client-key", max_retries=0) as client:
        try:
            answer = call(client)
            for item in answer if isinstance(answer, openai.Stream) else [answer]:
                seen.add(item)
        except (openai.APIError, ValueError) as error:
            seen.error = _described(error)
    return seen


async def _see_async(base_url: str, call: Call) -> Seen:
    seen = Seen()
    async with openai.AsyncOpenAI(base_url=base_url, api_key="client-key", max_retries=0) as client:
        try:
            answer = await call(client)
            if isinstance(answer, openai.AsyncStream):
                async for item in answer:
                    seen.add(item)
            else:
                seen.add(answer)
        except (openai.APIError, ValueError) as error:
            seen.error = _described(error)
    return seen


def _described(error: openai.APIError | ValueError) -> dict[str, Any]:
    described: dict[str, Any] = {"class": type(error).__name__, "message": str(error)}
    if isinstance(error, openai.APIError):
        described |= {name: getattr(error, name) for name in ("body", "code", "param", "type")}
    if isinstance(error, openai.APIStatusError):
        described["status"] = error.status_code
        described["request_id"] = error.request_id
        described["headers"] = {name: error.response.headers.get(name) for name in READ}
    return described
