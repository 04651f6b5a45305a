"""From conversations to the lines of training files. Pure.

`openai`: OpenAI's chat format for supervised fine-tuning. The others are TRL's conversational types:
prompt-completion, and unpaired preference, where the score of a judge says which answers were good.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.traces.assembling.jsontext import parse_json_or_none
from gateway.traces.exporting.chat import Chat

NOT_TEXT = "holds images, files or other parts that are no text"
BAD_ARGUMENTS = "the arguments of a tool call are no JSON object"

Example = dict[str, Any]
Build = Callable[[Chat, float | None], Example | str]


def openai_example(chat: Chat, score: float | None) -> Example:
    """A line for supervised fine-tuning. Of the answers in it only the last one is trained on.

    The others belong to traces of their own, which may have been judged otherwise.
    """
    del score
    asked = [
        {**message, "weight": 0} if message["role"] == "assistant" else message for message in chat.messages
    ]
    example: Example = {"messages": [*asked, chat.answer]}
    if chat.tools:
        example["tools"] = chat.tools
        if chat.parallel_tool_calls is not None:
            example["parallel_tool_calls"] = chat.parallel_tool_calls
    return example


def trl_example(chat: Chat, score: float | None) -> Example | str:
    """A line of TRL's prompt-completion type; the reason where the chat is not of text alone."""
    del score
    sides = [templated(messages) for messages in (chat.messages, [chat.answer])]
    for side in sides:
        if isinstance(side, str):
            return side
    return {"prompt": sides[0], "completion": sides[1]} | ({"tools": chat.tools} if chat.tools else {})


def labelled_by(threshold: float) -> Build:
    """Lines of TRL's unpaired preference type, good from a score of *threshold* on."""

    def build(chat: Chat, score: float | None) -> Example | str:
        assert score is not None, "only judged traces are selected"
        example = trl_example(chat, score)
        return example if isinstance(example, str) else {**example, "label": score >= threshold}

    return build


def templated(messages: list[dict[str, Any]]) -> list[dict[str, Any]] | str:
    """*messages* as models' templates want them; the reason where that cannot be.

    Content is text, the arguments of tool calls are objects, and `developer` is `system`, of which it is the
    later name.
    """
    converted = []
    for message in messages:
        role = "system" if message["role"] == "developer" else message["role"]
        content = _text(message.get("content"))
        if content is None:
            return NOT_TEXT
        calls = [_call(call) for call in message.get("tool_calls") or []]
        if None in calls:
            return BAD_ARGUMENTS
        converted.append(
            {**message, "role": role, "content": content} | ({"tool_calls": calls} if calls else {})
        )
    return converted


def _text(content: Any) -> str | None:
    """The text of a message's content; None where it is more than text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    parts = [
        part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        for part in content
    ]
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if len(texts) == len(parts) else None


def _call(call: Any) -> dict[str, Any] | None:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return None
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = parse_json_or_none(arguments.encode()) if arguments.strip() else {}
    if not isinstance(arguments, dict):
        return None
    return {**call, "function": {**function, "arguments": arguments}}
