"""Values as clickhouse-connect takes them: it knows no time without a zone, and cuts times in parameters."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def column(values: list[Any]) -> list[Any]:
    """*values* of one column as the driver wants them: only times need a look at each."""
    first = next((value for value in values if value is not None), None)
    return [_stored(value) for value in values] if isinstance(first, datetime) else values


def bindable(value: Any) -> Any:
    """*value* as a parameter: clickhouse-connect would drop the microseconds of a time."""
    if not isinstance(value, datetime):
        return value
    at = _stored(value).astimezone(UTC)
    return f"{at:%Y-%m-%d %H:%M:%S}" + (f".{at.microsecond:06}" if at.microsecond else "")


def _stored(value: Any) -> Any:
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    return value
