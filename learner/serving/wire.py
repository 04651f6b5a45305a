"""OpenAI's request and response shapes, as far as one model and its adapters need them. Pure.

Requests are lenient: unknown fields are ignored, as callers send new ones. Fields whose meaning this
server cannot keep (several choices, log probabilities, penalties) are refused by name rather than
ignored.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from learner.serving.engine import Chunk
from learner.serving.sampling import Sampling

MAX_STOP_STRINGS = 16
_REFUSED_UNLESS: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "echo": (False,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "suffix": ("",),
}


_T = TypeVar("_T", bound=msgspec.Struct)


class ApiError(Exception):
    """An answer in OpenAI's error shape. `retry_after_s` becomes the header."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.status}}


def bad_request(message: str, param: str | None = None) -> ApiError:
    """The error for a request that is itself at fault."""
    return ApiError(400, message, "BadRequestError", param=param)


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream carries besides the text."""

    include_usage: bool = False


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What chat and text completions have in common."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    ignore_eos: bool = False  # vLLM's: write max_tokens tokens whatever they are, for measurements

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def stop_strings(self) -> list[str]:
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [text for text in given if text]

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def sampling(self) -> Sampling:
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
        )


class ChatRequest(GenerateRequest, frozen=True, kw_only=True):
    """POST /v1/chat/completions."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None


class CompletionRequest(GenerateRequest, frozen=True, kw_only=True):
    """POST /v1/completions. A list of strings holds one prompt; a list of numbers is its tokens."""

    prompt: str | list[str | int]


class LoadAdapter(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v1/load_lora_adapter. The path is one on the server's machine."""

    lora_name: str
    lora_path: str


class UnloadAdapter(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v1/unload_lora_adapter."""

    lora_name: str


def decode(body: bytes, kind: type[_T]) -> _T:
    """Parse *body*. Raises ApiError naming the field that is off, or asks for what is not offered here."""
    try:
        raw: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
        request = msgspec.convert(raw, kind)
    except msgspec.DecodeError as error:
        raise bad_request(f"the request cannot be read: {error}") from error
    for field, allowed in _REFUSED_UNLESS.items():
        if raw.get(field) is not None and raw[field] not in allowed:
            raise bad_request(f"{field} is not offered by this server; leave it out", field)
    if isinstance(request, GenerateRequest):
        _check_ranges(request)
    return request


def _check_ranges(request: GenerateRequest) -> None:
    if request.temperature is not None and not 0 <= request.temperature <= 2:
        raise bad_request("temperature must be from 0 to 2", "temperature")
    if request.top_p is not None and not 0 < request.top_p <= 1:
        raise bad_request("top_p must be above 0 and at most 1", "top_p")
    if request.token_limit is not None and request.token_limit < 1:
        raise bad_request("max_tokens must be at least 1", "max_tokens")
    if len(request.stop_strings) > MAX_STOP_STRINGS:
        raise bad_request(f"at most {MAX_STOP_STRINGS} stop strings are taken", "stop")


def plain_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages with their content as text, as templates expect it. Raises ApiError for anything else."""
    if not messages:
        raise bad_request("messages must not be empty", "messages")
    return [
        {**message, "content": _text_of(message.get("content"), index)}
        for index, message in enumerate(messages)
    ]


def _text_of(content: Any, index: int) -> str:
    if content is None:  # an assistant's message that only calls tools
        return ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
        raise bad_request("only text content can be read by this model", f"messages[{index}].content")
    return "".join(part["text"] for part in parts)


class AnswerShape(msgspec.Struct, frozen=True, kw_only=True):
    """Builds the bodies of one answer, buffered or in chunks."""

    id: str
    created: int
    model: str
    chat: bool

    def whole(self, text: str, last: Chunk) -> dict[str, Any]:
        """The body of a buffered answer."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": last.finish, "logprobs": None}
        if self.chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        return self._body([choice], "chat.completion") | {"usage": usage(last)}

    def opening(self) -> dict[str, Any] | None:
        """What a stream begins with, before any text: a chat's role."""
        return self._chunk({"role": "assistant", "content": ""}, None) if self.chat else None

    def piece(self, chunk: Chunk) -> dict[str, Any]:
        """One chunk of a stream; the last one has the finish reason."""
        if self.chat:
            return self._chunk({"content": chunk.text} if chunk.text else {}, chunk.finish)
        choice = {"index": 0, "text": chunk.text, "finish_reason": chunk.finish, "logprobs": None}
        return self._body([choice], "")

    def closing(self, last: Chunk) -> dict[str, Any]:
        """The chunk with the usage, for those who asked for it."""
        return self._body([], "chat.completion.chunk") | {"usage": usage(last)}

    def _chunk(self, delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return self._body([choice], "chat.completion.chunk")

    def _body(self, choices: list[dict[str, Any]], kind: str) -> dict[str, Any]:
        kind = kind if self.chat else "text_completion"
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def usage(last: Chunk) -> dict[str, Any]:
    """OpenAI's usage of a finished answer."""
    return {
        "prompt_tokens": last.tokens_in,
        "completion_tokens": last.tokens_out,
        "total_tokens": last.tokens_in + last.tokens_out,
        "prompt_tokens_details": {"cached_tokens": last.tokens_cached},
    }


def model_cards(
    base: str, root: str, adapters: dict[str, str], created: int, max_tokens: int
) -> dict[str, Any]:
    """The body of /v1/models: the base model, then its adapters (name -> path), as vLLM lists them."""
    common = {"object": "model", "created": created, "owned_by": "tracetune", "max_model_len": max_tokens}
    cards = [{"id": base, "root": root, "parent": None, **common}]
    cards += [{"id": name, "root": path, "parent": base, **common} for name, path in adapters.items()]
    return {"object": "list", "data": cards}
