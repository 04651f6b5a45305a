"""What ships is whole: the Dockerfile copies what exists, constraints pin what is required."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(name: str) -> dict[str, Version]:
    lines = (ROOT / "constraints" / f"{name}.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {pair[0]: Version(pair[1]) for pair in pairs}


@pytest.mark.parametrize(
    ("constraints", "extras"),
    [("core", ["http2"]), ("learner", ["learner", "http2", "demo", "dev"])],
    ids=["core", "learner"],
)
def test_every_requirement_is_pinned_inside_its_range(constraints: str, extras: list[str]) -> None:
    pinned = pins(constraints)
    wanted = [
        *PROJECT["dependencies"],
        *(line for extra in extras for line in PROJECT["optional-dependencies"][extra]),
    ]

    for text in wanted:
        requirement = Requirement(text)
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert requirement.specifier.contains(pinned[name]), text


def test_the_core_pins_agree_with_the_others() -> None:
    learner = pins("learner")

    assert {name: learner[name] for name in pins("core")} == pins("core")


def test_the_dockerfile_copies_only_what_exists_and_ends_as_a_user() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [
        word
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    ]

    assert [word for word in copied if not (ROOT / word).exists()] == []
    assert any(line.startswith("USER ") for line in lines)
    assert not any(re.match(r"FROM \S+:latest", line) or line.startswith("ADD ") for line in lines)


def test_no_file_names_a_package_registry_host() -> None:
    # Which index packages come from is the installation's choice, never the project's.
    hosts = re.compile("|".join(["pypi" + r"\.org", "pythonhosted" + r"\.org", "registry" + r"\.npmjs"]))
    files = [
        path for path in ROOT.rglob("*") if path.suffix in {".py", ".md", ".toml", ".txt", ".yaml", ".sh"}
    ]
    ours = [
        path
        for path in files
        if not {".venv", ".venv-vllm", ".contenders", "models", "demo-data"}
        & set(path.relative_to(ROOT).parts)
    ]

    assert [str(path) for path in ours if hosts.search(path.read_text(errors="replace"))] == []
