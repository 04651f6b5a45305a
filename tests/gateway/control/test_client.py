"""The client of the control API: what it hands back, and the one line and exit code of everything else."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config.load import load_config
from gateway.control.client import ControlClient, UnreachableError, control_url
from gateway.errors import ConfigError, OperationError, RefusedError, UsageError
from tests.support.control_gateway import ADMIN_KEY, YAML, Gateway, running

START = {"route": "bot", "snapshot": "bot-1", "upstream": "local", "share": 0.2, "why": "a test"}


@pytest.fixture
def client(one: Gateway) -> Iterator[ControlClient]:
    with ControlClient(load_config(one.config_path), {}) as client:
        yield client


def test_every_call_goes_through_and_a_stale_version_is_a_refusal(client: ControlClient):
    started = client.start_rollout(START)
    stale = {"version": started["version"] - 1, "why": "w"}
    with pytest.raises(RefusedError, match="at version") as refused:
        client.act(started["rollout"], "promote", stale)
    assert refused.value.exit_code == 3
    with pytest.raises(RefusedError, match="is in rollout"):
        client.start_rollout(START)
    (view,) = client.rollouts("bot")["rollouts"]
    assert view == client.rollouts()["rollouts"][0]
    assert view["rollout"]["share"] == 0.2
    assert client.explain("bot@bot-1", session="s")["upstream"] == "local"
    done = client.roll_back({"route": "bot", "version": started["version"], "why": "w", "who": "me"})
    assert client.routes()["routes"][0]["version"] == done["version"]
    assert client.ready()["ready"] is True


def test_what_the_gateway_refuses_is_one_line_of_the_right_class(client: ControlClient):
    with pytest.raises(UsageError, match="share"):
        client.start_rollout({**START, "share": 2})
    with pytest.raises(OperationError, match="No route 'nobody'"):
        client.rollouts("nobody")
    with pytest.raises(OperationError, match="No rollout 'ro-0'"):
        client.act("ro-0", "promote", {"version": 1, "why": "w"})


def test_no_gateway_is_said_with_the_command_that_starts_one(tmp_path: Path):
    path = tmp_path / "tracetune.yaml"
    path.write_text(YAML.format(port=9))
    with pytest.raises(UnreachableError, match="`tracetune gateway` starts it"):
        ControlClient(load_config(path), {}).routes()


def test_a_missing_key_is_said_with_the_variable(tmp_path: Path):
    yaml = YAML + "auth: {{keys: []}}\n"
    for gateway in running(tmp_path, yaml, TRACETUNE_ADMIN_KEY=ADMIN_KEY):
        config = load_config(gateway.config_path)
        with pytest.raises(OperationError, match="Set TRACETUNE_ADMIN_KEY"):
            ControlClient(config, {}).routes()
        found = ControlClient(config, {"TRACETUNE_ADMIN_KEY": ADMIN_KEY}).routes()
        assert found["routes"][0]["model"] == "bot"


@pytest.mark.parametrize("key", ["a\nsecret", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_not_echoed(tmp_path: Path, key: str):
    path = tmp_path / "tracetune.yaml"
    path.write_text(YAML.format(port=9))
    with pytest.raises(ConfigError, match="TRACETUNE_ADMIN_KEY") as error:
        ControlClient(load_config(path), {"TRACETUNE_ADMIN_KEY": key})
    assert key not in str(error.value)


class _Stranger(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(404 if self.path.startswith("/api/routes") else 200)
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    def log_message(self, *args: object) -> None:
        del args


def test_another_server_on_the_port_is_recognised(tmp_path: Path):
    server = http.server.HTTPServer(("127.0.0.1", 0), _Stranger)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        path = tmp_path / "tracetune.yaml"
        path.write_text(YAML.format(port=server.server_port))
        client = ControlClient(load_config(path), {})
        for call in (client.routes, client.rollouts):
            with pytest.raises(OperationError, match="is not this gateway"):
                call()
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("{{host: 0.0.0.0, port: 80}}\nauth: {{keys: []}}", "http://127.0.0.1:80"),
        ('{{host: "::", port: 80}}\nauth: {{keys: []}}', "http://[::1]:80"),
        ("{{port: 80}}\nadmin_listen: {{port: 81}}", "http://127.0.0.1:81"),
    ],
)
def test_the_control_api_is_looked_for_where_it_is_served(tmp_path: Path, listen: str, url: str):
    path = tmp_path / "tracetune.yaml"
    first = YAML.index("upstreams:")
    path.write_text(f"listen: {listen}\n{YAML[first:]}".format(port=1))
    assert control_url(load_config(path)) == url
