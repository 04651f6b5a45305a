"""What `--upstream` and a GPU change of the demo's configuration is a configuration still, and nothing else changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from demo.cli import _changed, _changes
from demo.report import wilson
from gateway.config import load_config

CONFIG = Path(__file__).resolve().parents[2] / "config" / "demo.yaml"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(CONFIG.parent / "judges", tmp_path / "judges")
    return Path(shutil.copy(CONFIG, tmp_path / "demo.yaml"))


def test_a_real_upstream_takes_the_place_of_the_stand_in_in_variant_and_fallback(copy: Path) -> None:
    changed = load_config(_changed(copy, _changes("https://api.example/v1", "big-model", "EXAMPLE_KEY")))
    original = load_config(copy)

    upstream = changed.upstream("frontier")
    assert (upstream.servers, upstream.prices) == (["https://api.example/v1"], [])
    assert upstream.api_key is not None
    assert upstream.api_key.env == "EXAMPLE_KEY"
    assert [variant.model for variant in changed.routes[0].variants] == ["big-model"]
    assert [fallback.model for fallback in changed.routes[0].fallbacks if not isinstance(fallback, str)] == [
        "big-model"
    ]
    assert changed.learner == original.learner
    assert changed.routes[0].rollout == original.routes[0].rollout


def test_without_options_the_file_is_used_as_it_is() -> None:
    assert _changes(None, "any", "ANY").get("frontier") is None


def test_the_interval_of_a_share_is_wilsons() -> None:
    low, high = wilson(0.5, 100)

    assert low == pytest.approx(0.4038, abs=1e-4)  # Wilson 1927, as tabulated for 50 of 100
    assert high == pytest.approx(0.5962, abs=1e-4)
    assert wilson(0.0, 0) == (None, None)
