"""What stands in place of a body that cannot be read, and how a reader notices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gateway.traces.assembling.jsontext import MARKER

if TYPE_CHECKING:
    from gateway.traces.types import Trace

ERASED = f'{{"{MARKER}":{{"erased":true}}}}'
ERASED_REASON = "its key was destroyed: the person it is about was erased"
_BEGINNING = f'{{"{MARKER}":'


def unreadable(why: str) -> str:
    """The text in place of one that is damaged."""
    return msgspec.json.encode({MARKER: {"unreadable": why}}).decode()


def why_unreadable(body: Any) -> str | None:
    """Why a decoded body is not what was captured: ERASED_REASON, or what is damaged. None where it is."""
    marker = body.get(MARKER) if isinstance(body, dict) and len(body) == 1 else None
    if not isinstance(marker, dict):
        return None
    if marker.get("erased") is True:
        return ERASED_REASON
    why = marker.get("unreadable")
    return why if isinstance(why, str) else None


def why_text_unreadable(text: str | None) -> str | None:
    """The same of a text as it is stored: a body, or what was said in feedback."""
    if text is None or not text.startswith(_BEGINNING):
        return None
    try:
        return why_unreadable(msgspec.json.decode(text))
    except msgspec.DecodeError:
        return None


def is_readable(trace: Trace) -> bool:
    """Whether neither body of *trace*, as it is stored, was erased or is damaged."""
    return why_text_unreadable(trace.request) is why_text_unreadable(trace.response) is None
