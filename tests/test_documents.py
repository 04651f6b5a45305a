"""Documents are tested: every configuration in config/ and every YAML block in the docs loads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.config import Config, load_config
from gateway.config.load import parse_yaml
from learner.init.cli import init

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "config").glob("*.yaml"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
YAML_BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.DOTALL | re.MULTILINE)
NAMED_FILE = re.compile(r"`([a-z_/]+\.py)`")
MAKE_TARGET = re.compile(r"(?:^|`)make ([a-z-]+)", re.MULTILINE)
INSTALLED = re.compile(r"^pip install (.*?)(?:\s+#.*)?$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_example_configuration_loads(path: Path) -> None:
    config = load_config(path)

    assert config.routes


def test_there_are_examples() -> None:
    assert {"demo.yaml", "minimal.yaml", "tracetune.yaml"} <= {path.name for path in CONFIGS}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_yaml_block_in_a_document_is_a_configuration(path: Path) -> None:
    for block in YAML_BLOCK.findall(path.read_text(encoding="utf-8")):
        parse_yaml(block, Config, path.name)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(path: Path) -> None:
    missing = [
        target
        for target in LINK.findall(path.read_text(encoding="utf-8"))
        if not (path.parent / target).exists()
    ]

    assert missing == []


def test_every_file_that_the_architecture_names_is_there() -> None:
    paths = [str(path.relative_to(ROOT)) for path in ROOT.glob("[!.]*/**/*.py")]
    named = NAMED_FILE.findall((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"))

    assert [name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in paths)] == []


@pytest.mark.parametrize("folder", ["gateway/data_plane", "gateway/upstream"])
def test_every_file_of_the_request_path_has_its_place_in_the_architecture(folder: str) -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    files = [path.name for path in (ROOT / folder).glob("[!_]*.py")]

    assert [name for name in files if not re.search(rf"[`/]{re.escape(name)}`", text)] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_target_in_a_document_is_one(path: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)

    assert set(MAKE_TARGET.findall(path.read_text(encoding="utf-8"))) <= set(targets)


def test_the_readme_installs_from_the_clone_with_pinned_versions() -> None:
    commands = INSTALLED.findall((ROOT / "README.md").read_text(encoding="utf-8"))

    assert [command.split() for command in commands] == [
        ["-c", "constraints/core.txt", "-e", "."],
        ["-c", "constraints/learner.txt", "-e", "'.[learner]'"],
    ]
    assert all((ROOT / command.split()[1]).is_file() for command in commands)


def test_the_readme_names_every_option_of_init() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    options = [(option.secondary_opts or option.opts)[0] for option in init.params]

    assert [option for option in options if f"`{option}" not in text] == []
