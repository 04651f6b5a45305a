"""One question to one model: bounded, tried again where that may help, priced.

What fails for this trace alone is a reason to abstain. What would fail for every trace (a refused key, a
model that is not there) is a JudgeUpstreamError: thousands of abstentions would be stored for nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

import msgspec
import openai
from openai import APIConnectionError, APIError, APIStatusError, AsyncOpenAI
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential_jitter,
)

from gateway.config import Upstream
from gateway.traces.assembling.usage import read_usage
from gateway.traces.cost import cost_usd
from gateway.traces.types import NO_TOKEN_PRICE, PriceTerms
from judges.errors import JudgeUpstreamError
from judges.llm.clients import ModelClients
from judges.llm.prompts import Messages

MAX_TRIES = 4
MAX_WAIT_S = 60.0  # between two tries, whatever the upstream asks for; the judge's own bound ends it sooner
MAX_REPLY_TOKENS = 300
MAX_THOUGHT_TOKENS = 8_000  # of models that think first, and take `max_completion_tokens` alone
_PASSING = frozenset({408, 409, 429})
_REFUSED_KEY = frozenset({401, 403})
_back_off = wait_exponential_jitter(initial=0.5, max=8.0)


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a call came to: an answer (text, or vectors of numbers), and what it took; None where unknown."""

    text: str = ""
    vectors: tuple[tuple[float, ...], ...] = ()
    cut: bool = False
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost_usd: float | None = None


class NoReplyError(Exception):
    """This question was not answered; the message is the reason, without any text of the trace."""


class Model:
    """Asks one model. Used from one event loop."""

    def __init__(self, clients: ModelClients) -> None:
        self._clients = clients
        self._thinks = False  # it refuses `max_tokens` and `temperature`, as models that think first do

    @property
    def name(self) -> str:
        """For people: `gpt-4o of openai`."""
        return f"{self._clients.model} of {self._clients.upstream.name}"

    @property
    def upstream(self) -> str:
        return self._clients.upstream.name

    @property
    def model(self) -> str:
        return self._clients.model

    async def reply(self, messages: Messages) -> Reply:
        """The text that it answers. Raises NoReplyError, JudgeUpstreamError."""
        try:
            raw = await self._tried(lambda client: self._chat(client, messages))
        except openai.BadRequestError as error:
            if self._thinks or error.param not in {"max_tokens", "temperature"}:
                raise NoReplyError(self._refusal(error)) from None
            self._thinks = True
            return await self.reply(messages)
        choices = raw.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        message = choice.get("message")
        text = message.get("content") if isinstance(message, dict) else None
        return self._priced(
            raw, text=text if isinstance(text, str) else "", cut=choice.get("finish_reason") == "length"
        )

    async def embed(self, texts: list[str]) -> Reply:
        """A vector for each of *texts*. Raises NoReplyError, JudgeUpstreamError."""
        try:
            raw = await self._tried(lambda client: self._embeddings(client, texts))
            vectors = msgspec.convert(raw, _Embeddings).vectors(len(texts))
        except openai.BadRequestError as error:
            raise NoReplyError(self._refusal(error)) from None
        except (msgspec.ValidationError, ValueError):
            raise NoReplyError(f"{self.name} answered without an embedding for each text") from None
        return self._priced(raw, vectors=vectors)

    async def close(self) -> None:
        await self._clients.close()

    async def _chat(self, client: AsyncOpenAI, messages: Messages) -> bytes:
        bounds: dict[str, Any] = (
            {"max_completion_tokens": MAX_THOUGHT_TOKENS}
            if self._thinks
            else {"max_tokens": MAX_REPLY_TOKENS, "temperature": 0}
        )
        sent: Any = messages
        answer = await client.chat.completions.with_raw_response.create(
            model=self._clients.model,
            messages=sent,
            extra_headers=self._clients.extra_headers,
            **bounds,
        )
        content: bytes = answer.content
        return content

    async def _embeddings(self, client: AsyncOpenAI, texts: list[str]) -> bytes:
        answer = await client.embeddings.with_raw_response.create(
            model=self._clients.model,
            input=texts,
            encoding_format="float",
            extra_headers=self._clients.extra_headers,
        )
        return answer.content

    async def _tried(self, ask: Callable[[AsyncOpenAI], Awaitable[bytes]]) -> dict[str, Any]:
        """The decoded answer, after at most MAX_TRIES. Raises BadRequestError for the caller to read."""
        tries = AsyncRetrying(
            retry=retry_if_exception(_may_pass), stop=stop_after_attempt(MAX_TRIES), wait=_wait, reraise=True
        )
        try:
            async for attempt in tries:
                with attempt:
                    raw = msgspec.json.decode(await ask(self._clients.next()))
        except openai.BadRequestError:
            raise
        except APIStatusError as error:
            self._end_if_hopeless(error)
            raise NoReplyError(self._refusal(error)) from None
        except openai.APITimeoutError:
            raise NoReplyError(f"{self.name} did not answer in time, {MAX_TRIES} times") from None
        except APIConnectionError:
            raise NoReplyError(
                f"upstream {self.upstream} could not be reached or broke off, {MAX_TRIES} times"
            ) from None
        except (msgspec.DecodeError, APIError):
            raise NoReplyError(f"{self.name} answered what is not JSON") from None
        if not isinstance(raw, dict):
            raise NoReplyError(f"{self.name} answered what is no completion")
        return raw

    def _end_if_hopeless(self, error: APIStatusError) -> None:
        """Raise JudgeUpstreamError where no trace can be judged before a person does something."""
        if error.status_code in _REFUSED_KEY:
            raise JudgeUpstreamError(
                f"upstream {self.upstream!r} refused our key for model {self.model!r} ({error.status_code}); "
                "correct api_key of that upstream, or what the key may do there"
            ) from None
        if error.status_code == 404:
            raise JudgeUpstreamError(
                f"upstream {self.upstream!r} has no model {self.model!r} at its address (404); correct the "
                "judge's model, or base_url of that upstream"
            ) from None

    def _refusal(self, error: APIStatusError) -> str:
        return f"{self.name} refused the question with status {error.status_code}"

    def _priced(self, raw: dict[str, Any], **answer: Any) -> Reply:
        usage = read_usage(raw)
        written = usage.tokens_out
        if written is None and "vectors" in answer and usage.tokens_in is not None:
            written = 0  # an embedding is no text
        price = price_of(self._clients.upstream, self.model)
        return Reply(
            tokens_in=usage.tokens_in,
            tokens_out=written,
            cost_usd=cost_usd(price, usage, None) if price is not NO_TOKEN_PRICE else None,
            **answer,
        )


class _Embedding(msgspec.Struct):
    index: int
    embedding: list[float]


class _Embeddings(msgspec.Struct):
    data: list[_Embedding]

    def vectors(self, count: int) -> tuple[tuple[float, ...], ...]:
        """In the order of the texts. Raises ValueError unless there is one for each, all of one length."""
        found = {each.index: tuple(each.embedding) for each in self.data}
        if sorted(found) != list(range(count)) or len({len(vector) for vector in found.values()}) != 1:
            raise ValueError("not one embedding for each text")
        return tuple(found[index] for index in range(count))


def price_of(upstream: Upstream, model: str) -> PriceTerms | None:
    """What *upstream* asks for *model*: None where unknown, NO_TOKEN_PRICE where a machine is paid for."""
    if upstream.price_per_hour is not None:
        return NO_TOKEN_PRICE
    price = next((price for price in upstream.prices if price.model == model), None)
    return None if price is None else msgspec.convert(price, PriceTerms, from_attributes=True)


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, APIStatusError):
        return error.status_code in _PASSING or error.status_code >= 500
    return isinstance(error, APIConnectionError)


def _wait(state: RetryCallState) -> float:
    """As long as the upstream asks for, else longer from try to try; MAX_WAIT_S at most."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked = (
        retry_after_s(error.response.headers.get("retry-after"))
        if isinstance(error, APIStatusError)
        else None
    )
    return _back_off(state) if asked is None else min(asked, MAX_WAIT_S)


def retry_after_s(value: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks for, a number or a date; None where it is neither."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if seconds == seconds else None  # noqa: PLR0124 -- NaN is no time
