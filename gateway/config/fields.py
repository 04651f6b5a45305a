"""Which fields a place of the configuration has, read off the types."""

from __future__ import annotations

import re
from typing import Any

import msgspec

_STEP = re.compile(r"\.(\w+)|\[(?:\d+|\.\.\.)\]")


def known_fields(kind: Any, place: str) -> list[str]:
    """Names of the fields at *place*, msgspec's path such as `$.routes[0].variants[1]`, in a *kind*.

    Sorted; of all alternatives where there are several; empty where the path leads nowhere.
    """
    found = [msgspec.inspect.type_info(kind)]
    for step in _STEP.finditer(place):
        found = [
            inner for outer in found for whole in _alternatives(outer) for inner in _inside(whole, step[1])
        ]
    structs = [whole for outer in found for whole in _alternatives(outer)]
    return sorted(
        {
            field.encode_name
            for s in structs
            if isinstance(s, msgspec.inspect.StructType)
            for field in s.fields
        }
    )


def _alternatives(kind: msgspec.inspect.Type) -> list[msgspec.inspect.Type]:
    if isinstance(kind, msgspec.inspect.Metadata):
        return _alternatives(kind.type)
    return list(kind.types) if isinstance(kind, msgspec.inspect.UnionType) else [kind]


def _inside(kind: msgspec.inspect.Type, field: str | None) -> list[msgspec.inspect.Type]:
    """The type of *field*, or of the items where it is None."""
    if isinstance(kind, msgspec.inspect.StructType):
        return [known.type for known in kind.fields if known.encode_name == field]
    if isinstance(kind, msgspec.inspect.CollectionType) and field is None:
        return [kind.item_type]
    return [kind.value_type] if isinstance(kind, msgspec.inspect.DictType) else []
