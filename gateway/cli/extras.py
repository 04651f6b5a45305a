"""Which extra of this distribution brings a module that a core install lacks."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires

# `torch==2.13.0; extra == "learner"`, as the metadata of an installed distribution has it.
_OF_EXTRA = re.compile(r"""([\w.-]+).*;.*\bextra\s*==\s*['"]([\w-]+)['"]""")


def extra_with(module: str) -> str | None:
    """The first extra that requires a distribution named like *module*'s top package; None: no extra does."""
    name = module.partition(".")[0]
    try:
        lines = requires("tracetune") or []
    except PackageNotFoundError:  # run from its sources, without an installation
        return None
    for line in lines:
        found = _OF_EXTRA.match(line)
        if found is not None and found[1].lower().replace("-", "_") == name.lower():
            return found[2]
    return None
