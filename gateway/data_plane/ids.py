"""UUIDv7: a trace's id, minted at the gateway. Time and randomness are arguments."""

from __future__ import annotations


def uuid7(unix_ns: int, random: bytes) -> str:
    """The UUIDv7 of *unix_ns* and eight random bytes. They sort by time, to below a microsecond."""
    milliseconds, rest_ns = divmod(unix_ns, 1_000_000)
    value = (milliseconds & 0xFFFF_FFFF_FFFF) << 80
    value |= 0x7000 << 64
    value |= (rest_ns * 4096 // 1_000_000) << 64
    value |= 0x8000_0000_0000_0000 | (int.from_bytes(random, "big") & 0x3FFF_FFFF_FFFF_FFFF)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
