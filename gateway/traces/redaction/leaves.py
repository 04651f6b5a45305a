"""The texts in decoded JSON, and the way back: strings, keys and long numbers, in JSON inside strings too."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import msgspec

from gateway.traces.assembling.jsontext import parse_json_or_none
from gateway.traces.redaction.rules import KEY_MARK

MAX_NESTED_JSON = 4  # JSON inside strings inside JSON: tool arguments are one level deep
MAX_DEPTH = 100  # of decoded JSON; what lies deeper is left out, and says so
LONG_NUMBER = 1_000_000  # a card or phone number may be sent as a number

# Names of the OpenAI API that tell nothing of what they hold, so that no rule needs to see them.
_TELLING_NOTHING = frozenset(
    {
        "arguments",
        "choices",
        "completion_tokens",
        "content",
        "created",
        "custom_id",
        "data",
        "delta",
        "description",
        "detail",
        "finish_reason",
        "function",
        "functions",
        "id",
        "image_url",
        "index",
        "input",
        "input_text",
        "instructions",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "message",
        "messages",
        "metadata",
        "model",
        "name",
        "object",
        "output",
        "output_text",
        "parallel_tool_calls",
        "parameters",
        "presence_penalty",
        "prompt",
        "prompt_tokens",
        "properties",
        "refusal",
        "required",
        "response_format",
        "role",
        "seed",
        "service_tier",
        "stream",
        "stream_options",
        "system_fingerprint",
        "temperature",
        "text",
        "tool_call_id",
        "tool_calls",
        "tool_choice",
        "tools",
        "top_p",
        "total_tokens",
        "type",
        "usage",
        "user",
        "value",
    }
)
MAX_CONTEXT = 100  # characters of a name; a longer one tells no rule anything
_JSON_STARTS = ("{", "[")
_encode = msgspec.json.Encoder().encode


def texts_of(value: Any, shortest: int) -> list[str] | None:
    """Every text in *value* of at least *shortest* characters, one with a name in its object led by that.

    None: *value* must be looked at more closely, for what is nested in it.
    """
    texts: list[str] = []
    return texts if _gather([value], texts, shortest, "", 0) else None


def _gather(items: Any, texts: list[str], shortest: int, name: str, depth: int) -> bool:
    """Append the texts of *items*, a dict or a list called *name*. The quick way through most bodies."""
    if depth > MAX_DEPTH:
        return False
    named = type(items) is dict
    for item in items.items() if named else items:
        if named:
            key, item = item  # noqa: PLW2901 -- one loop for both: a call for each costs as much as the rest
            name = "" if key in _TELLING_NOTHING else _context(key, texts)
        kind = type(item)
        if kind is str:
            if len(item) >= shortest:
                if item[0] in "{[ \n\t\r" and "\\" in item and item.lstrip()[:1] in _JSON_STARTS:
                    return False
                texts.append(f"{name}{item}" if name else item)
        elif kind is dict or kind is list:
            if not _gather(item, texts, shortest, name, depth + 1):
                return False
        elif kind is int and not -LONG_NUMBER < item < LONG_NUMBER:
            texts.append(f"{name}{item}")
    return True


def _context(key: str, texts: list[str]) -> str:
    """What leads the texts called *key*, which is a text itself."""
    texts.append(key)
    return f"{key}{KEY_MARK}" if len(key) <= MAX_CONTEXT else ""


class Leaves:
    """The texts in one value, in order, each with where it is, so that some can be replaced in place."""

    def __init__(self, value: Any, shortest: int, *, nested: int = MAX_NESTED_JSON) -> None:
        self.texts: list[str] = []  # without their context
        self.contexts: list[str] = []
        self.cut: set[int] = set()  # numbers of the texts that stand where something was nested too deeply
        self._shortest = shortest
        self._places: list[tuple[Any, Any, bool]] = []  # container, its key or index, whether it is the key
        self._inner: list[tuple[Any, Any, list[Any], int, int]] = []  # JSON in a string, and its leaves
        self._root = [value]
        self._walk(self._root, "", nested, 0)

    def replaced(self, new: dict[int, str]) -> Any:
        """The value, changed in place, with the texts of *new* in place of those with their numbers."""
        renamed: dict[int, str] = {}
        for index, text in new.items():
            container, key, is_key = self._places[index]
            if is_key:
                renamed[index] = text
            else:
                container[key] = text
        changed, keys = sorted({*new, *self.cut}), sorted(renamed)
        # What is nested deepest was found last, and has to be whole before what holds it is written.
        for container, key, holder, first, end in reversed(self._inner):
            if bisect_left(changed, first) < bisect_left(changed, end):
                self._rename(keys[bisect_left(keys, first) : bisect_left(keys, end)], renamed)
                container[key] = _encode(holder[0]).decode()
        self._rename(keys, renamed)
        return self._root[0]

    def _rename(self, indices: list[int], renamed: dict[int, str]) -> None:
        """Give the keys with the numbers *indices* their new names, in their places, once."""
        names: dict[int, tuple[dict[str, Any], dict[str, str]]] = {}
        for index in indices:
            if index in renamed:
                container, key, _ = self._places[index]
                names.setdefault(id(container), (container, {}))[1][key] = renamed.pop(index)
        for container, new in names.values():
            items = [(new.get(key, key), item) for key, item in container.items()]
            container.clear()
            container.update(items)

    def _walk(self, container: Any, context: str, nested: int, depth: int) -> None:
        if type(container) is dict:
            for key, item in list(container.items()):
                if key in _TELLING_NOTHING:
                    own = ""
                else:
                    if len(key) >= self._shortest:
                        self._add(container, key, key, "", is_key=True)
                    own = f"{key}{KEY_MARK}" if len(key) <= MAX_CONTEXT else ""
                self._item(container, key, item, own, nested, depth)
        else:
            for index, item in enumerate(container):
                self._item(container, index, item, context, nested, depth)

    def _item(self, container: Any, key: Any, item: Any, context: str, nested: int, depth: int) -> None:
        kind = type(item)
        if kind is str:
            # In a shorter one is no JSON either that holds anything.
            if len(item) >= self._shortest and not (
                nested
                and item.lstrip()[:1] in _JSON_STARTS
                and self._json(container, key, item, nested, depth)
            ):
                self._add(container, key, item, context)
        elif kind is dict or kind is list:
            if depth >= MAX_DEPTH:
                container[key] = f"[nested deeper than {MAX_DEPTH}, left out]"
                self.cut.add(len(self.texts))
                self._add(container, key, container[key], "")
            else:
                self._walk(item, context, nested, depth + 1)
        elif kind is int and not -LONG_NUMBER < item < LONG_NUMBER:
            self._add(container, key, str(item), context)

    def _json(self, container: Any, key: Any, text: str, nested: int, depth: int) -> bool:
        """Whether *text* is JSON, whose own texts are then leaves."""
        inner = parse_json_or_none(text.encode("utf-8", "replace"))
        if not isinstance(inner, dict | list):
            return False
        first, holder = len(self.texts), [inner]
        place = len(self._inner)
        self._inner.append((container, key, holder, first, first))
        self._walk(holder, "", nested - 1, depth + 1)
        self._inner[place] = (container, key, holder, first, len(self.texts))
        return True

    def _add(self, container: Any, key: Any, text: str, context: str, *, is_key: bool = False) -> None:
        self.texts.append(text)
        self.contexts.append(context)
        self._places.append((container, key, is_key))
