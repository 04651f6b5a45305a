"""What the command line changes of the demo's configuration is a configuration still, and nothing else changes."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from demo.configuration import RealUpstream, plan_of
from demo.engine import serves_with_vllm
from gateway.config import load_config
from gateway.errors import ConfigError
from gateway.paths import paths_of
from learner.serving.vllm_python import VLLM_PYTHON

CONFIG = Path(__file__).resolve().parents[2] / "config" / "demo.yaml"
REAL = RealUpstream(url="https://api.example/v1", model="big-model", key_env="EXAMPLE_KEY")
KEY = {"EXAMPLE_KEY": "k"}


def test_a_real_upstream_takes_the_place_of_the_stand_in_in_variant_and_fallback() -> None:
    changed, original = plan_of(CONFIG, REAL, KEY).config, load_config(CONFIG)

    upstream = changed.upstream("frontier")
    assert (upstream.servers, upstream.prices) == (["https://api.example/v1"], [])
    assert upstream.api_key is not None
    assert upstream.api_key.env == "EXAMPLE_KEY"
    assert [variant.model for variant in changed.routes[0].variants] == ["big-model"]
    assert [fallback.model for fallback in changed.routes[0].fallbacks if not isinstance(fallback, str)] == [
        "big-model"
    ]
    assert (changed.store, changed.judges, changed.learner) == (
        original.store,
        original.judges,
        original.learner,
    )
    assert changed.routes[0].rollout == original.routes[0].rollout


def test_what_up_reads_of_a_changed_configuration_is_what_was_planned(tmp_path: Path) -> None:
    plan = plan_of(CONFIG, REAL, KEY)

    assert plan.text is not None
    (tmp_path / "anywhere.yaml").write_text(plan.text)
    assert load_config(tmp_path / "anywhere.yaml") == plan.config


def test_without_options_the_file_is_used_as_it_is() -> None:
    plan = plan_of(CONFIG, None, {})

    assert (plan.path, plan.text, plan.config) == (CONFIG, None, load_config(CONFIG))


def test_a_real_upstream_without_its_key_or_without_a_url_is_refused() -> None:
    with pytest.raises(ConfigError, match="EXAMPLE_KEY is not set"):
        plan_of(CONFIG, REAL, {})
    with pytest.raises(ConfigError, match="--upstream nonsense"):
        plan_of(CONFIG, RealUpstream(url="nonsense", model="m", key_env="EXAMPLE_KEY"), KEY)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("embedded:../demo-data", "clickhouse://far/db", "store.url"),
        ("ticket-bot", "my-bot", "route 'ticket-bot'"),
        ("frontier", "other", "upstream 'frontier'"),
        ("http://127.0.0.1:8381/v1", "https://api.example/v1", "stand-in"),
        ("learner:\n", "other:\n", "unknown field"),
    ],
)
def test_a_configuration_that_the_demo_cannot_run_on_is_refused_in_one_line(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    path = tmp_path / "demo.yaml"
    path.write_text(
        re.sub(re.escape(old) + r"(?![\w-])" if old[-1] != "\n" else old, new, CONFIG.read_text())
    )

    with pytest.raises(ConfigError, match=expected) as refusal:
        plan_of(path, None, {})
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_in_a_place_of_its_own_nothing_is_written_beside_the_file(tmp_path: Path) -> None:
    plan, original = plan_of(CONFIG, None, {}, place=tmp_path), load_config(CONFIG)
    model = tmp_path / "models" / "smollm2-135m-instruct"

    assert plan.path == tmp_path / "demo-data" / "demo.yaml"
    assert (paths_of(plan.config).data, plan.config.capture.spool) == (
        tmp_path / "demo-data",
        tmp_path / "demo-data" / "spool",
    )
    assert plan.config.learner[0].base_model == model
    assert [upstream.managed.model for upstream in plan.config.upstreams if upstream.managed] == [model]
    assert (plan.config.judges, plan.config.routes) == (original.judges, original.routes)


def test_vllm_takes_the_place_of_our_server_and_of_nothing_else() -> None:
    changed, original = plan_of(CONFIG, None, {}, vllm=True).config, load_config(CONFIG)

    engines = [upstream.managed and upstream.managed.engine for upstream in changed.upstreams]
    assert engines == [None, "vllm"]
    assert (changed.routes, changed.learner, changed.store) == (
        original.routes,
        original.learner,
        original.store,
    )


def test_vllm_serves_only_with_a_gpu_and_an_interpreter_that_imports_it(tmp_path: Path) -> None:
    having, broken = tmp_path / "having", tmp_path / "broken"
    having.write_text("#!/bin/sh\nexit 0\n")
    broken.write_text("#!/bin/sh\nexit 1\n")
    for python in (having, broken):
        python.chmod(0o755)

    assert serves_with_vllm({VLLM_PYTHON: str(having)}, gpu=True)
    assert not serves_with_vllm({VLLM_PYTHON: str(having)}, gpu=False)
    assert not serves_with_vllm({VLLM_PYTHON: str(broken)}, gpu=True)
    assert not serves_with_vllm({VLLM_PYTHON: str(tmp_path / "none")}, gpu=True)
    assert serves_with_vllm({}, gpu=True) == (importlib.util.find_spec("vllm") is not None)
