"""The server's HTTP surface: OpenAI's completions, vLLM's adapter calls, health and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from learner.errors import ServingError
from learner.serving.adapters import AdapterSet
from learner.serving.engine import Chunk, Engine, QueueFullError, Request
from learner.serving.http import (
    ClientGoneError,
    Receive,
    Scope,
    Send,
    read_body,
    require_json,
    send_bytes,
    send_error,
    send_event,
    send_json,
    start,
)
from learner.serving.lora import Adapter
from learner.serving.metrics import exposition
from learner.serving.model import ServedModel
from learner.serving.wire import (
    AnswerShape,
    ApiError,
    ChatRequest,
    CompletionRequest,
    GenerateRequest,
    LoadAdapter,
    UnloadAdapter,
    bad_request,
    decode,
    model_cards,
    plain_messages,
)

# An answer's bound when the request names none: an app that forgot it must not hold a row for minutes.
DEFAULT_MAX_TOKENS = 1024
RETRY_AFTER_S = 1

_log = logging.getLogger(__name__)


class App:
    """An ASGI application over one engine."""

    def __init__(
        self,
        engine: Engine,
        model: ServedModel,
        adapters: AdapterSet,
        *,
        name: str,
        root: Path,
        max_tokens: int,
    ) -> None:
        """`max_tokens` bounds prompt and answer together."""
        self._engine = engine
        self._model = model
        self._adapters = adapters
        self._name = name
        self._root = root
        self._max_tokens = max_tokens
        self._created = int(time.time())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", "the server runs without lifespan and web sockets"
        try:
            await self._dispatch(scope, receive, send)
        except ApiError as error:
            await send_error(send, error)
        except ClientGoneError:
            pass  # nothing was begun

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["method"], scope["path"]:
            case "GET", "/health":
                await send_bytes(send, 200 if self._engine.alive else 503, b"", "text/plain")
            case "GET", "/metrics":
                text = exposition(self._engine, len(self._adapters.paths()))
                await send_bytes(send, 200, text, "text/plain; version=0.0.4")
            case "GET", "/v1/models":
                cards = model_cards(
                    self._name, str(self._root), self._adapters.paths(), self._created, self._max_tokens
                )
                await send_json(send, 200, cards)
            case "POST", "/v1/chat/completions":
                await self._answer(decode(await read_body(receive), ChatRequest), receive, send)
            case "POST", "/v1/completions":
                await self._answer(decode(await read_body(receive), CompletionRequest), receive, send)
            case "POST", "/v1/load_lora_adapter":
                require_json(scope)
                await self._load(decode(await read_body(receive), LoadAdapter), send)
            case "POST", "/v1/unload_lora_adapter":
                require_json(scope)
                await self._unload(decode(await read_body(receive), UnloadAdapter), send)
            case _:
                raise ApiError(404, "Not Found", "NotFoundError")

    async def _load(self, wanted: LoadAdapter, send: Send) -> None:
        started = time.monotonic()
        try:
            await asyncio.to_thread(self._adapters.load, wanted.lora_name, Path(wanted.lora_path))
        except ServingError as error:
            raise bad_request(str(error), "lora_name") from error
        _log.info("loaded adapter %s in %.2f s", wanted.lora_name, time.monotonic() - started)
        await send_bytes(
            send,
            200,
            f"Success: LoRA adapter '{wanted.lora_name}' added successfully.".encode(),
            "text/plain",
        )

    async def _unload(self, wanted: UnloadAdapter, send: Send) -> None:
        try:
            self._adapters.unload(wanted.lora_name)
        except ServingError as error:
            raise ApiError(404, str(error), "NotFoundError", param="lora_name") from error
        _log.info("unloaded adapter %s", wanted.lora_name)
        await send_bytes(
            send,
            200,
            f"Success: LoRA adapter '{wanted.lora_name}' removed successfully.".encode(),
            "text/plain",
        )

    async def _answer(self, wanted: ChatRequest | CompletionRequest, receive: Receive, send: Send) -> None:
        adapter = self._adapter_of(wanted.model)
        # Long prompts take long to tokenize; other answers go on meanwhile.
        prompt = await asyncio.to_thread(self._tokenize, wanted)
        chunks: asyncio.Queue[Chunk | None] = asyncio.Queue()  # bounded by the request's max_tokens
        loop = asyncio.get_running_loop()
        request = Request(
            prompt=prompt,
            adapter=adapter,
            sampling=wanted.sampling(),
            max_tokens=self._limit(wanted, len(prompt)),
            stop=wanted.stop_strings,
            ignore_end=wanted.ignore_eos,
            sink=lambda chunk: _hand_over(loop, chunks, chunk),
        )
        try:
            self._engine.submit(request)
        except QueueFullError as error:
            raise ApiError(503, str(error), "ServiceUnavailable", retry_after_s=RETRY_AFTER_S) from error
        except ServingError as error:
            raise bad_request(str(error), "max_tokens") from error
        watch = asyncio.create_task(_watch(receive, chunks))
        try:
            chat = isinstance(wanted, ChatRequest)
            shape = AnswerShape(
                id=f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
                created=int(time.time()),
                model=wanted.model,
                chat=chat,
            )
            if wanted.stream:
                await _stream(shape, chunks, send, include_usage=wanted.include_usage)
            else:
                await _buffer(shape, chunks, send)
        finally:
            request.cancel()  # without effect on an answer that is complete
            watch.cancel()

    def _adapter_of(self, name: str) -> Adapter | None:
        adapter = self._adapters.get(name)
        if adapter is None and name != self._name:
            raise ApiError(404, f"The model `{name}` does not exist.", "NotFoundError", param="model")
        return adapter

    def _tokenize(self, wanted: ChatRequest | CompletionRequest) -> list[int]:
        tokenizer = self._model.tokenizer
        if isinstance(wanted, CompletionRequest):
            return _prompt_tokens(tokenizer, wanted.prompt)
        messages = plain_messages(wanted.messages)
        try:
            encoded = tokenizer.apply_chat_template(
                messages, tools=wanted.tools, add_generation_prompt=True, return_dict=True
            )
        except (
            TemplateError,
            TypeError,
            KeyError,
        ) as error:  # what templates do with messages they do not expect
            raise bad_request("the model's chat template refuses these messages", "messages") from error
        return list(encoded["input_ids"])

    def _limit(self, wanted: GenerateRequest, prompt: int) -> int:
        """Tokens the answer may take. Raises ApiError when prompt and answer cannot fit."""
        room = self._max_tokens - prompt
        asked = wanted.token_limit
        if prompt == 0:
            raise bad_request("the prompt is empty", "prompt")
        if room < 1 or (asked is not None and asked > room):
            raise bad_request(
                f"This model's maximum context length is {self._max_tokens} tokens. However, you requested "
                f"{asked or 1} output tokens and your prompt contains {prompt} input tokens; shorten one of "
                "them, or start the server with a larger --max-model-len.",
                "max_tokens" if room >= 1 else "messages",
            )
        return min(room, DEFAULT_MAX_TOKENS) if asked is None else asked


def _prompt_tokens(tokenizer: Any, prompt: str | list[str | int]) -> list[int]:
    texts = [prompt] if isinstance(prompt, str) else [part for part in prompt if isinstance(part, str)]
    tokens = [part for part in prompt if isinstance(part, int)]
    if len(texts) > 1 or (texts and tokens):
        raise bad_request("one prompt at a time is offered by this server", "prompt")
    if texts:
        return list(tokenizer(texts[0])["input_ids"])
    if any(not 0 <= token < len(tokenizer) for token in tokens):
        raise bad_request("a token of the prompt is not in the model's vocabulary", "prompt")
    return tokens


def _hand_over(loop: asyncio.AbstractEventLoop, chunks: asyncio.Queue[Chunk | None], chunk: Chunk) -> None:
    """From the engine's thread to the event loop."""
    with contextlib.suppress(RuntimeError):  # the loop has closed: nobody is left to tell
        loop.call_soon_threadsafe(chunks.put_nowait, chunk)


async def _watch(receive: Receive, chunks: asyncio.Queue[Chunk | None]) -> None:
    """Put None into *chunks* when the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
    chunks.put_nowait(None)


async def _buffer(shape: AnswerShape, chunks: asyncio.Queue[Chunk | None], send: Send) -> None:
    text = ""
    while (chunk := await chunks.get()) is not None:
        if chunk.error is not None:
            raise ApiError(500, chunk.error, "InternalServerError")
        text += chunk.text
        if chunk.last:
            await send_json(send, 200, shape.whole(text, chunk))
            return


async def _stream(
    shape: AnswerShape, chunks: asyncio.Queue[Chunk | None], send: Send, *, include_usage: bool
) -> None:
    """Send the answer as it is written. An error midway is an event; then it ends without [DONE]."""
    begun = False
    while (chunk := await chunks.get()) is not None:
        if chunk.error is not None and not begun:
            raise ApiError(500, chunk.error, "InternalServerError")
        if not begun:
            begun = True
            await start(
                send, 200, {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
            )
            if (opening := shape.opening()) is not None:
                await send_event(send, opening)
        if chunk.error is not None:
            await send_event(send, ApiError(500, chunk.error, "InternalServerError").body())
            break
        await send_event(send, shape.piece(chunk))
        if chunk.last:
            if include_usage:
                await send_event(send, shape.closing(chunk))
            await send_event(send, "[DONE]")
            break
    if begun:
        await send({"type": "http.response.body", "body": b""})
