"""What a request's prompt begins with, as a key: equal beginnings have equal keys.

Servers like vLLM keep what they computed for the beginning of a prompt. That pays where the beginning is long
and comes again, on the same server: the instructions that many requests share, and the conversation that each
of its turns repeats.
"""

from __future__ import annotations

from zlib import crc32

import msgspec

MAX_BODY_BYTES = 1024 * 1024  # of a larger body no key is made
HASHED_BYTES = 16 * 1024  # of the beginning, at most
MIN_SHARED_BYTES = 512  # of shared instructions, in JSON; fewer are computed sooner than they are looked up
PROMPT_BYTES = 1024  # of a `prompt` in one piece; a shorter one has no key


class _Message(msgspec.Struct):
    role: str = ""
    content: msgspec.Raw = msgspec.Raw(b"")


class _Body(msgspec.Struct):
    messages: list[_Message] = []
    instructions: msgspec.Raw = msgspec.Raw(b"")
    input: msgspec.Raw = msgspec.Raw(b"")
    prompt: msgspec.Raw = msgspec.Raw(b"")


_decode = msgspec.json.Decoder(_Body).decode
_decode_items = msgspec.json.Decoder(list[_Message]).decode


def prefix_key(body: bytes, model: str) -> int | None:
    """The key of a request to *model*, from its JSON *body*; None: it shares too little with others.

    Of a conversation (`messages`; `instructions` and `input`) it is the messages up to and with the first of
    role user, but never the last message: that one is the question. So requests that share instructions and
    differ in their question go together, if the instructions are worth it; and so do, from the second on, all
    turns of a conversation, whatever was said in between. Of a `prompt` it is its first PROMPT_BYTES. Of a
    message only role and content count, and the order of fields nowhere does. Never raises.
    """
    if len(body) > MAX_BODY_BYTES:
        return None
    try:
        fields = _decode(body)
        items = fields.messages
        if not items and bytes(memoryview(fields.input)[:1]) == b"[":
            items = _decode_items(fields.input)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    opening = _Opening(model)
    if items or memoryview(fields.instructions):
        return _of_conversation(opening, fields.instructions, items)
    if len(memoryview(fields.prompt)) < PROMPT_BYTES:
        return None
    opening.add(b"", fields.prompt, PROMPT_BYTES)
    return opening.key


class _Opening:
    """Hashes a beginning, part by part, up to HASHED_BYTES. `key` has 32 bits."""

    def __init__(self, model: str) -> None:
        self.key = crc32(model.encode())
        self.hashed = 0

    def add(self, role: bytes, content: msgspec.Raw, most: int = HASHED_BYTES) -> None:
        part = memoryview(content)[: most - self.hashed]
        self.key = crc32(part, crc32(role, self.key))
        self.hashed += len(part)


def _of_conversation(opening: _Opening, instructions: msgspec.Raw, items: list[_Message]) -> int | None:
    opening.add(b"", instructions)
    for item in items[:-1]:
        if opening.hashed >= HASHED_BYTES:
            break
        opening.add(item.role.encode(), item.content)
        if item.role == "user":
            return opening.key
    return opening.key if opening.hashed >= MIN_SHARED_BYTES else None
