"""Which tool wrote a line, told by the fields that only its lines have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

from gateway.traces.importing.call import ImportedCall, Line, UnreadableLineError
from gateway.traces.importing.helicone import from_helicone
from gateway.traces.importing.langfuse import from_langfuse
from gateway.traces.importing.litellm import from_litellm
from gateway.traces.importing.openai import (
    from_fine_tuning,
    from_request_and_response,
    from_stored_completion,
)

Source = Literal["auto", "fine-tuning", "stored-completions", "log", "litellm", "langfuse", "helicone"]
SOURCES: tuple[Source, ...] = get_args(Source)

_MAPPINGS: dict[str, Callable[[Line], ImportedCall]] = {
    "fine-tuning": from_fine_tuning,
    "stored-completions": from_stored_completion,
    "log": from_request_and_response,
    "litellm": from_litellm,
    "langfuse": from_langfuse,
    "helicone": from_helicone,
}
# In this order: what stands first is told by fields that the following do not have.
_TOLD_BY: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("helicone", ("request_body",)),
    ("helicone", ("request_id", "request_path")),
    ("litellm", ("call_type", "startTime")),
    ("langfuse", ("type", "traceId")),
    ("langfuse", ("type", "trace_id")),
    ("stored-completions", ("object", "choices")),
    ("log", ("request",)),
    ("log", ("reqPayload",)),
    ("fine-tuning", ("messages",)),
)


def call_of(line: Any, source: Source = "auto") -> ImportedCall:
    """The call that *line* tells of.

    Raises UnreadableLineError for what cannot be read, OtherLineError for what is no call to a model.
    """
    if not isinstance(line, dict):
        raise UnreadableLineError("the line is no JSON object")
    if source == "auto":
        found = next((name for name, fields in _TOLD_BY if all(field in line for field in fields)), None)
        if found is None:
            raise UnreadableLineError("no known format has these fields; name it with --format")
        return _MAPPINGS[found](line)
    return _MAPPINGS[source](line)
