"""JSON Schema by the library `jsonschema`, bounded in time whatever the schema and the value are.

Patterns run on RE2 and not on `re`; nothing is fetched; references are followed so often and no more.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from typing import Any

import jsonschema
import msgspec
import re2
from jsonschema.validators import extend, validator_for
from jsonschema_specifications import REGISTRY

from judges.protocol import Abstain, abstain

MAX_SCHEMA_BYTES = 200_000
MAX_VALUE_CHARS = 200_000  # of the JSON that is held against a schema
MAX_REFERENCES = 50_000  # followed for one value: few that refer to each other twice become very many
CACHED_SCHEMAS = 256
_NOT_SCHEMAS = ("const", "enum", "default", "examples")
_followed = threading.local()


class SchemaError(ValueError):
    """This schema cannot be used. The message repeats nothing of it but names of keywords."""


def satisfies(value: Any, chars: int, schema: bytes) -> bool | Abstain:
    """Whether decoded JSON of *chars* characters satisfies *schema*, JSON too; else why it cannot be said."""
    if chars > MAX_VALUE_CHARS:
        return abstain(f"the JSON is longer than {MAX_VALUE_CHARS:,} characters")
    try:
        validator = checked_validator(schema)
    except SchemaError as error:
        return abstain(str(error))
    _followed.count = 0
    try:
        return bool(validator.is_valid(value))
    except SchemaError as error:
        return abstain(str(error))
    except Exception:  # noqa: BLE001 -- whatever a library may meet in a schema of anybody's
        return abstain("the schema cannot be applied to this value")


@functools.lru_cache(CACHED_SCHEMAS)
def checked_validator(schema: bytes) -> Any:
    """What validates against *schema*, JSON of one. Raises SchemaError."""
    if len(schema) > MAX_SCHEMA_BYTES:
        raise SchemaError(f"the schema is larger than {MAX_SCHEMA_BYTES:,} bytes")
    try:
        decoded = msgspec.json.decode(schema)
        dialect = validator_for(decoded, default=jsonschema.Draft202012Validator)
        dialect.check_schema(decoded)
        _check_patterns(decoded)
    except SchemaError:
        raise
    except jsonschema.SchemaError as error:
        at = ".".join(str(part) for part in error.absolute_schema_path if isinstance(part, str))
        raise SchemaError(f"not a JSON Schema: rule {at} of its dialect is broken") from error
    except Exception as error:
        raise SchemaError("not a JSON Schema that can be read") from error
    return _bounded(dialect)(decoded, registry=REGISTRY)


def _check_patterns(schema: Any) -> None:
    """Raises SchemaError where a pattern is none of RE2's, or is used where the library runs `re`."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting.extend(part)
        elif isinstance(part, dict):
            named = part.get("patternProperties")
            if isinstance(named, dict):
                if "unevaluatedProperties" in part:
                    raise SchemaError("patternProperties beside unevaluatedProperties is not supported")
                for pattern in named:
                    _compiled(pattern)
            if isinstance(part.get("pattern"), str):
                _compiled(part["pattern"])
            waiting.extend(inner for name, inner in part.items() if name not in _NOT_SCHEMAS)


@functools.lru_cache(CACHED_SCHEMAS)
def _compiled(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise SchemaError("a pattern of the schema is not one that RE2 takes (no look-around)") from error


@functools.lru_cache(16)
def _bounded(dialect: Any) -> Any:
    """*dialect* with our own rules where the library's run `re`, are quadratic, or follow a reference."""
    rules = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "uniqueItems": _unique_items,
    }
    rules |= {
        name: _counted(dialect.VALIDATORS[name])
        for name in ("$ref", "$dynamicRef", "$recursiveRef")
        if name in dialect.VALIDATORS
    }
    return extend(dialect, {name: rule for name, rule in rules.items() if name in dialect.VALIDATORS})


def _counted(rule: Any) -> Any:
    def follow(validator: Any, reference: Any, instance: Any, schema: Any) -> Iterator[Any]:
        _followed.count += 1
        if _followed.count > MAX_REFERENCES:
            raise SchemaError(f"more than {MAX_REFERENCES:,} references of the schema to follow")
        yield from rule(validator, reference, instance, schema) or ()

    return follow


def _pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[Any]:
    if isinstance(instance, str) and not _compiled(pattern).search(instance):
        yield jsonschema.ValidationError("does not match")


def _pattern_properties(
    validator: Any, patterns: dict[str, Any], instance: Any, _schema: Any
) -> Iterator[Any]:
    if isinstance(instance, dict):
        for pattern, schema in patterns.items():
            for name, value in instance.items():
                if _compiled(pattern).search(name):
                    yield from validator.descend(value, schema)


def _additional_properties(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if not isinstance(instance, dict):
        return
    named = schema.get("properties", {})
    patterns = [_compiled(pattern) for pattern in schema.get("patternProperties", {})]
    for name, value in instance.items():
        if name not in named and not any(pattern.search(name) for pattern in patterns):
            yield from validator.descend(value, rule)


def _unique_items(_validator: Any, unique: Any, instance: Any, _schema: Any) -> Iterator[Any]:
    if unique is True and isinstance(instance, list):
        seen = {msgspec.json.encode(_with_whole_numbers(item), order="sorted") for item in instance}
        if len(seen) < len(instance):
            yield jsonschema.ValidationError("has an item twice")


def _with_whole_numbers(value: Any) -> Any:
    """1.0 as 1, wherever it stands: to JSON Schema they are one number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_with_whole_numbers(item) for item in value]
    if isinstance(value, dict):
        return {name: _with_whole_numbers(item) for name, item in value.items()}
    return value
