"""Who may call the control API."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx
import pytest

from tests.support.control_gateway import ADMIN_KEY, YAML, Gateway, eventually, running, web

KEYS = """
auth:
  keys:
    - {{name: app, key: {{env: APP_KEY}}}}
    - {{name: ops, key: {{env: OPS_KEY}}, scopes: [admin], routes: []}}
"""
SECRETS = {"TRACETUNE_ADMIN_KEY": ADMIN_KEY, "APP_KEY": "app-key", "OPS_KEY": "ops-key"}
ADMIN_PATHS = ["/api/routes", "/api/rollouts", "/api/explain?model=bot", "/metrics"]
FEEDBACK = {"session": "s", "rating": 1}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    yield from running(tmp_path_factory.mktemp("guarded"), YAML + KEYS, **SECRETS)


def ask(gateway: Gateway, path: str, key: str | None = None, **headers: str) -> httpx.Response:
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    if path == "/api/feedback":
        return web.post(gateway.url + path, json=FEEDBACK, headers=headers)
    return web.get(gateway.url + path, headers=headers)


@pytest.mark.parametrize("path", [*ADMIN_PATHS, "/api/feedback"])
@pytest.mark.parametrize("key", [None, "wrong", "admin-key"])
def test_without_a_known_key_every_call_is_a_401_in_openais_shape(guarded: Gateway, path: str, key: str):
    answer = ask(guarded, path, key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ADMIN_PATHS)
def test_control_needs_the_admin_scope_and_feedback_the_feedback_scope(guarded: Gateway, path: str):
    assert ask(guarded, path, "app-key").status_code == 403
    assert ask(guarded, path, "ops-key").status_code == 200
    assert ask(guarded, path, ADMIN_KEY).status_code == 200


def test_whatever_is_not_for_apps_and_probes_needs_the_admin_scope(guarded: Gateway):
    described = ask(guarded, "/api/docs/openapi.json").json()["paths"]
    open_to = {"/api/feedback": "app-key", "/healthz": None, "/readyz": None}
    guarded_calls = [
        (method, path.replace("{action}", "pause"))
        for path, methods in described.items()
        for method in methods
        if path not in open_to
    ]

    def status(method: str, path: str, key: str) -> int:
        return web.request(method, guarded.url + path, headers={"authorization": f"Bearer {key}"}).status_code

    assert set(open_to) < set(described)
    assert len(guarded_calls) >= 9
    assert {call: status(*call, "app-key") for call in guarded_calls} == dict.fromkeys(guarded_calls, 403)
    assert {call: status(*call, "wrong") for call in guarded_calls} == dict.fromkeys(guarded_calls, 401)


def test_feedback_needs_the_feedback_scope(guarded: Gateway):
    assert ask(guarded, "/api/feedback", "app-key").status_code == 202
    assert ask(guarded, "/api/feedback", "ops-key").status_code == 403
    assert ask(guarded, "/api/feedback", ADMIN_KEY).status_code == 202


def test_a_key_decides_only_about_its_own_routes_and_its_name_is_recorded(guarded: Gateway):
    body = {"route": "bot", "snapshot": "b-1", "upstream": "local", "share": 0.1, "why": "w", "who": "me"}

    def start(key: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"}
        return web.post(f"{guarded.url}/api/rollouts", json=body, headers=headers)

    assert start("ops-key").status_code == 403
    assert start(ADMIN_KEY).status_code == 201
    saved = guarded.paths.state.joinpath("overlay.json").read_text()
    assert '"who": "admin/me"' in saved
    assert "key" not in saved


def test_probes_need_no_key(guarded: Gateway):
    assert ask(guarded, "/healthz").json() == {"status": "ok"}
    assert ask(guarded, "/readyz").status_code == 200


def test_no_key_stands_in_a_log(guarded: Gateway):
    assert eventually(guarded.log.exists, 1)
    for secret in SECRETS.values():
        assert secret not in guarded.log.read_text()


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "10.0.0.1", "0.0.0.0", "127.0.0.1.nip.io"]
)
@pytest.mark.parametrize("path", [*ADMIN_PATHS, "/api/feedback"])
def test_without_keys_another_name_for_this_machine_is_refused(one: Gateway, host: str, path: str):
    for name in (host, f"{host}:{one.port}"):
        assert ask(one, path, host=name).status_code == 403


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]", "127.8.8.8"])
def test_without_keys_every_name_of_loopback_may_call(one: Gateway, host: str):
    name = f"{host}:{one.port}"
    assert ask(one, "/api/routes", host=name).status_code == 200
    assert ask(one, "/api/routes", host=name, origin=f"http://{name}").status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "",
        "http://127.0.0.1",
        "http://127.0.0.1:1",
        "file://",
        "http://localhost",
    ],
)
@pytest.mark.parametrize("path", [*ADMIN_PATHS, "/api/feedback"])
def test_without_keys_a_page_of_another_origin_is_refused(one: Gateway, origin: str, path: str):
    assert ask(one, path, origin=origin).status_code == 403


@pytest.fixture(scope="module")
def separate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, str]]:
    """Two workers with an admin address of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    yaml = f"admin_listen: {{{{host: 127.0.0.1, port: {port}}}}}\n" + YAML
    for gateway in running(tmp_path_factory.mktemp("separate"), yaml, workers=2):
        yield gateway, f"http://127.0.0.1:{port}"


def test_a_separate_admin_address_takes_control_off_the_data_port(separate: tuple[Gateway, str]):
    gateway, admin = separate
    assert eventually(lambda: answers(f"{admin}/healthz"), 10)
    for path in [*ADMIN_PATHS, "/api/docs", "/api/docs/openapi.json"]:
        assert web.get(admin + path).status_code == 200, path
        hidden = web.get(gateway.url + path)
        assert (hidden.status_code, hidden.json()["error"]["code"]) == (404, "unknown_url")
    for url in (gateway.url, admin):
        assert web.post(f"{url}/api/feedback", json=FEEDBACK).status_code == 202
        assert web.get(f"{url}/readyz").status_code == 200


def answers(url: str) -> bool:
    try:
        return web.get(url).status_code == 200
    except httpx.HTTPError:
        return False
