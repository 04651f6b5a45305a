r"""Reads JSON that msgspec refuses and others write and read: lone surrogates, numbers of any size. Pure.

JavaScript writes `"\ud83d"` for a text that it cut within an emoji, some servers stream an emoji in two
halves, and some say NaN. The `openai` client reads all that. This is for what the quick way could not read.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn


def read_request(data: bytes) -> Any:
    """The value of *data*. Raises ValueError and RecursionError for what is no JSON."""
    return json.loads(data.decode("utf-8-sig"), parse_constant=_refuse)


def read_answer(data: bytes) -> Any:
    """The value of *data*, NaN and broken UTF-8 included. Raises as `read_request` does."""
    return json.loads(data.decode("utf-8-sig", "replace"))


def clean(text: str) -> str:
    """*text* without lone surrogates, which cannot be encoded."""
    return text.encode("utf-8", "replace").decode()


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
