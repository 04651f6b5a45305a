"""Writes the exact versions of what is installed for given extras: `python scripts/pin.py learner dev`.

Run in a fresh environment after `pip install -e '.[learner,dev]'`; the output is a constraints file.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement


def closure(root: str, extras: set[str]) -> dict[str, str]:
    """Name to version of everything *root* with *extras* needs, as installed here."""
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    queue = [(root, extra) for extra in ["", *sorted(extras)]]
    while queue:
        name, extra = queue.pop()
        key = (re.sub(r"[-_.]+", "-", name).lower(), extra)
        if key in seen:
            continue
        seen.add(key)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # needed on other platforms only
        if key[0] != root:
            # A local version (torch 2.13.0+cpu) names one build; the pin is the release.
            versions[key[0]] = found.version.partition("+")[0]
        for text in found.requires or []:
            need = Requirement(text)
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                queue += [(need.name, wanted) for wanted in ["", *sorted(need.extras)]]
    return versions


if __name__ == "__main__":
    for name, version in sorted(closure("tracetune", set(sys.argv[1:])).items()):
        sys.stdout.write(f"{name}=={version}\n")
