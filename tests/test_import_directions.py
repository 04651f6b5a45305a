"""Dependencies point one way: gateway knows nobody, judges know traces, the learner knows them all."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What a package may import of ours. A longer prefix wins over a shorter one.
ALLOWED: dict[str, tuple[str, ...]] = {
    "gateway.traces": (
        "gateway.traces",
        "gateway.config",
        "gateway.paths",
        "gateway.errors",
        "gateway.file_lock",
    ),
    # One process of its own that no other package imports; it counts where the workers do.
    "gateway.traces.recorder": (
        "gateway.traces",
        "gateway.config",
        "gateway.paths",
        "gateway.errors",
        "gateway.file_lock",
        "gateway.metrics",
        "gateway.usage_metrics",
    ),
    "gateway.traces.row_group": ("gateway.traces", "gateway.errors", "gateway.usage_metrics"),
    "gateway": ("gateway",),
    "judges": (
        "judges",
        "gateway.traces",
        "gateway.config",
        "gateway.errors",
        "gateway.paths",
        "gateway.cli.root",
        "gateway.cli.new_files",
        "gateway.cli.progress",
        "gateway.cli.terminal",
    ),
    "learner": (
        "learner",
        "judges",
        "gateway.traces",
        "gateway.config",
        "gateway.errors",
        "gateway.file_lock",
        "gateway.model_files",
        "gateway.paths",
        "gateway.cli.root",
        "gateway.cli.new_files",
        "gateway.control.client",
    ),
    "demo": ("demo", "gateway", "judges", "learner"),
    "benchmarks": ("benchmarks", "gateway", "judges"),
}
# Heavy libraries that must not be imported when a module is: they are loaded inside the functions that need them.
FORBIDDEN = {
    "gateway": {"torch", "transformers", "peft", "trl", "datasets", "accelerate"},
    "judges": {"torch", "transformers", "peft", "trl", "datasets", "accelerate"},
}
# Who locks files. A segment is locked before anybody else knows its name: that it is locked already would be an
# error like any other, and not an answer.
LOCKING = {"gateway.file_lock", "gateway.traces.segments"}
OURS = ("gateway", "judges", "learner", "demo", "benchmarks")
FILES = sorted(
    path
    for package in OURS
    for path in (ROOT / package).rglob("*.py")
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)  # installed, not ours
)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = module_of(path).split(".") if path.name == "__init__.py" else module_of(path).split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            found.add(".".join([*base, *([node.module] if node.module else [])]))
    return found


def violations(path: Path) -> list[str]:
    module = module_of(path)
    scope = max((name for name in ALLOWED if f"{module}.".startswith(f"{name}.")), key=len)
    wrong = []
    for name in imports_of(path):
        top = name.split(".")[0]
        if top in OURS and not any(f"{name}.".startswith(f"{allowed}.") for allowed in ALLOWED[scope]):
            wrong.append(name)
        if top in FORBIDDEN.get(scope.split(".")[0], set()):
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_module_imports_only_what_its_package_may(path: Path) -> None:
    assert violations(path) == []


def test_the_rule_catches_an_import_against_the_direction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    bad = tmp_path / "gateway" / "bad.py"
    bad.parent.mkdir()
    bad.write_text("from learner import train\nimport torch\nfrom .traces import types\n")

    assert {"learner", "torch"} == set(violations(bad))


def test_files_are_locked_in_one_place() -> None:
    assert {module_of(path) for path in FILES if "fcntl" in imports_of(path)} == LOCKING
