"""What the gateway reads of a request's body, and the few bytes it changes."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.data_plane.errors import invalid_request
from gateway.data_plane.json_splice import insert_first, is_repeated, replace_value, top_level_values
from gateway.data_plane.wide_json import clean, read_request
from gateway.traces.types import cut_key


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Metadata(msgspec.Struct):
    session_id: str | None = None


class _Fields(msgspec.Struct):
    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    metadata: _Metadata | None = None
    safety_identifier: str | None = None
    user: str | None = None
    n: int | None = None
    prompt: msgspec.Raw | None = None


class RequestView(msgspec.Struct, frozen=True, kw_only=True):
    """What of a body decides its way. `choices`: how many answers it asks for, `n` for each prompt."""

    model: str
    stream: bool
    asks_usage: bool
    has_stream_options: bool
    session: str | None
    subject: str | None
    choices: int


# Of a body that is passed through as it is.
NOTHING_READ = RequestView(
    model="",
    stream=False,
    asks_usage=False,
    has_stream_options=False,
    session=None,
    subject=None,
    choices=1,
)
_ASK_USAGE = b'"stream_options":{"include_usage":true}'
_decode = msgspec.json.Decoder(_Fields).decode
_decode_prompts = msgspec.json.Decoder(list[msgspec.Raw]).decode


def read_body(body: bytes) -> RequestView:
    """Read *body*. Raises ApiError (400) where it is no JSON object or names no model.

    Other fields of an unexpected type are the upstream's to judge; they count as absent here.
    """
    try:
        fields = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        fields = _read_leniently(body, error)
    options = fields.stream_options
    subject = fields.safety_identifier or fields.user
    return RequestView(
        model=fields.model,
        stream=fields.stream is True,
        asks_usage=options is not None and options.include_usage is True,
        has_stream_options=options is not None,
        session=_key(fields.metadata.session_id) if fields.metadata is not None else None,
        subject=_key(subject) if subject is not None else None,
        choices=_choices(fields),
    )


def upstream_body(body: bytes, view: RequestView, model: str, *, count_usage: bool) -> bytes:
    """*body* as it goes upstream: under the name *model* there, and asked for usage where *count_usage*."""
    if model != view.model or is_repeated(
        body, "model"
    ):  # of repeated keys another reader may take the first
        body = replace_value(body, "model", msgspec.json.encode(model))
    if not count_usage:
        return body
    if not view.has_stream_options and b'"stream_options"' not in body:
        return insert_first(body, _ASK_USAGE)
    try:
        options = msgspec.json.decode(body, type=_AnyOptions).stream_options
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body  # an upstream will refuse these options, and its words are better than ours
    if options is msgspec.UNSET:
        return insert_first(body, _ASK_USAGE)
    return replace_value(body, "stream_options", _with_usage(body, options or {}))


class _AnyOptions(msgspec.Struct):
    stream_options: dict[str, msgspec.Raw] | msgspec.UnsetType | None = msgspec.UNSET


def _with_usage(body: bytes, options: dict[str, msgspec.Raw]) -> bytes:
    """The stream options of *body*, which hold *options*, with usage asked for in them."""
    if not options:
        return b'{"include_usage":true}'
    start, end = top_level_values(body, "stream_options")[-1]
    written = body[start:end]
    if "include_usage" in options:
        return replace_value(written, "include_usage", b"true")
    return insert_first(written, b'"include_usage":true')


def _read_leniently(body: bytes, cause: Exception) -> _Fields:
    """The same fields where some have a type or a spelling that we did not expect. Raises ApiError (400)."""
    try:
        data = read_request(body)
    except (ValueError, RecursionError) as error:
        raise invalid_request(f"the request body is not valid JSON: {cause}") from error
    if not isinstance(data, dict):
        raise invalid_request("the request body must be a JSON object")
    model = data.get("model")
    if not isinstance(model, str):
        raise invalid_request("the request body must name a model", param="model")
    options, metadata, n = data.get("stream_options"), data.get("metadata"), data.get("n")
    usage = options.get("include_usage") if isinstance(options, dict) else None
    return _Fields(
        model=clean(model),
        stream=data.get("stream") is True,
        stream_options=_StreamOptions(usage is True) if isinstance(options, dict) else None,
        metadata=_Metadata(_text(metadata.get("session_id"))) if isinstance(metadata, dict) else None,
        safety_identifier=_text(data.get("safety_identifier")),
        user=_text(data.get("user")),
        n=n if isinstance(n, int) else None,
        prompt=msgspec.Raw(_outline(data.get("prompt"))),
    )


def _choices(fields: _Fields) -> int:
    asked = fields.n if fields.n is not None and fields.n > 0 else 1
    if fields.prompt is None:
        return asked
    prompt = bytes(fields.prompt)
    if prompt[:1] != b"[":
        return asked
    prompts = _decode_prompts(prompt)
    # A list of numbers is one prompt, of tokens.
    return asked if not prompts or bytes(prompts[0])[:1].isdigit() else asked * len(prompts)


def _outline(prompt: Any) -> bytes:
    """As many prompts as there are in *prompt*, of tokens or of text, as JSON without what they say."""
    if not isinstance(prompt, list):
        return b'""'
    return b"[%b]" % b",".join(b"0" if isinstance(each, int) else b'""' for each in prompt)


def _key(value: str | None) -> str | None:
    """Cut as a header is, so that one session is one wherever it was named."""
    return cut_key(value) if value else None


def _text(value: Any) -> str | None:
    return clean(value) if isinstance(value, str) else None
