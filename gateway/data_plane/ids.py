"""UUIDv7: a trace's id, minted at the gateway. Time and randomness are arguments."""

from __future__ import annotations

_VARIANT = "89ab"  # the first digit of the fourth group, by RFC 9562


def uuid7(unix_ns: int, random: bytes) -> str:
    """The UUIDv7 of *unix_ns* and eight random bytes. They sort by time, to below a microsecond."""
    milliseconds, rest_ns = divmod(unix_ns, 1_000_000)
    time = f"{milliseconds:012x}"
    rest = random.hex()
    return (
        f"{time[:8]}-{time[8:]}-7{rest_ns * 4096 // 1_000_000:03x}"
        f"-{_VARIANT[random[0] & 3]}{rest[1:4]}-{rest[4:]}"
    )
