"""Snapshots on real servers: every server has them, verified, and has them again after it was restarted."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime

import httpx
import pytest

from gateway.config import load_config
from gateway.paths import paths_of
from learner.base_model import base_model_digest
from learner.errors import LearnerError, ServingError
from learner.publish import ensure_loaded, loaded, publish, unload
from learner.registry import register
from learner.serving.client import ServerClient
from learner.types import SnapshotManifest
from tests.support.serving import serving

CONFIG = """
store: {{url: "embedded:./data"}}
upstreams:
  - name: local
    base_urls: [{servers}]
  - name: gone
    base_url: http://127.0.0.1:9/v1
routes:
  - model: bot
    variants: [{{name: stable, upstream: local, model: tiny}}]
"""
MANAGED = """
upstreams:
  - name: local
    base_url: http://127.0.0.1:{port}/v1
    managed: {{engine: peft, model: {model}, args: [--threads, "1"]}}
routes:
  - model: bot
    variants: [{{name: stable, upstream: local, model: tiny}}]
"""


@pytest.fixture(scope="module")
def servers(tiny_base, tmp_path_factory):
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    with serving(tiny_base, folders[0]) as one, serving(tiny_base, folders[1]) as two:
        yield [one.base_url, two.base_url]


@pytest.fixture
def config(servers, tmp_path):
    path = tmp_path / "tracetune.yaml"
    path.write_text(CONFIG.format(servers=", ".join(servers)))
    return load_config(path)


@pytest.fixture
def snapshots(config, tiny_base, tiny_adapters):
    """Ids of two registered snapshots, unloaded everywhere at the end."""
    ids = []
    for adapter in tiny_adapters:
        draft = SnapshotManifest(
            snapshot="",
            route="bot",
            kind="adapter",
            files={},
            base_model="tiny",
            base_digest=base_model_digest(tiny_base),
            recipe=None,
            training=None,
            run=None,
            dataset=None,
            judges={},
            parents=[],
            evaluation={},
            created_at=datetime.now(UTC),
        )
        ids.append(register(paths_of(config).snapshots, adapter, draft).snapshot)
    yield ids
    for snapshot in ids:
        unload(snapshot, config.upstream("local"))


def routes(*snapshots, upstream="local"):
    places = [{"upstream": upstream, "model": snapshot, "snapshot": snapshot} for snapshot in snapshots]
    return {"routes": [{"variants": places[:1], "fallbacks": places[1:]}]}


def everywhere(config, snapshot):
    return [snapshot in names for names in loaded(config.upstream("local")).values()] == [True, True]


def test_a_published_snapshot_answers_on_every_server_and_publishing_again_changes_nothing(config, snapshots):
    upstream = config.upstream("local")
    for _ in range(2):
        publish(config, snapshots[0], upstream)
        assert everywhere(config, snapshots[0])
    unload(snapshots[0], upstream)
    assert all(snapshots[0] not in names for names in loaded(upstream).values())


def test_what_a_server_lost_is_loaded_again_and_what_it_has_is_left_alone(config, snapshots, servers):
    ensure_loaded(config, routes(*snapshots))
    with ServerClient(servers[0]) as one:
        one.unload(snapshots[1])
    ensure_loaded(config, routes(*snapshots))
    ensure_loaded(config, routes(*snapshots))
    assert all(everywhere(config, snapshot) for snapshot in snapshots)


def test_one_server_away_is_told_and_does_not_keep_the_others_from_loading(config, snapshots):
    body = routes(snapshots[0], upstream="gone")
    body["routes"] += routes(snapshots[1])["routes"]
    with pytest.raises(ServingError, match=r"http://127\.0\.0\.1:9/v1 cannot be reached"):
        ensure_loaded(config, body)
    assert everywhere(config, snapshots[1])


def test_a_changed_snapshot_is_never_loaded(config, snapshots):
    weights = paths_of(config).snapshots / snapshots[0] / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    for attempt in (
        lambda: publish(config, snapshots[0], config.upstream("local")),
        lambda: ensure_loaded(config, routes(snapshots[0])),
    ):
        with pytest.raises(LearnerError, match="sha256"):
            attempt()
    assert all(snapshots[0] not in names for names in loaded(config.upstream("local")).values())


def test_another_adapter_under_the_snapshots_name_is_refused(config, snapshots, servers, tiny_adapters):
    with ServerClient(servers[1]) as two:
        two.load(snapshots[0], tiny_adapters[1])
    with pytest.raises(ServingError, match=rf"serves {tiny_adapters[1]} as {snapshots[0]}"):
        publish(config, snapshots[0], config.upstream("local"))


def test_an_unreachable_server_is_given_up_after_a_few_tries(config, snapshots):
    started = time.monotonic()
    with pytest.raises(ServingError, match="cannot be reached"):
        publish(config, snapshots[0], config.upstream("gone"))
    assert time.monotonic() - started < 20


def test_a_managed_server_listens_on_its_base_url_and_ends_with_its_process(tiny_base, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = tmp_path / "tracetune.yaml"
    path.write_text(MANAGED.format(port=port, model=tiny_base))
    command = [sys.executable, "-m", "learner.serving.managed", "--config", str(path)]
    process = subprocess.Popen([*command, "--upstream", "local"], stderr=subprocess.DEVNULL)
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}/health", process)
        cards = httpx.get(f"http://127.0.0.1:{port}/v1/models").json()["data"]
        assert [card["id"] for card in cards] == ["tiny"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        process.wait()
    unknown = subprocess.run([*command, "--upstream", "x"], capture_output=True, text=True, check=False)
    assert (unknown.returncode, len(unknown.stderr.splitlines())) == (2, 1)


def _wait_until_healthy(url, process):
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert process.poll() is None
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"{url} did not answer")
