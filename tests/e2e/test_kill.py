"""Law 2: SIGKILL of any process of `up`, under traffic, loses no finished trace and doubles none."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Self

import httpx
import pytest

from gateway.errors import StoreError
from tests.support.system import System, free_port, running_system
from tests.support.upstream import ScriptedUpstream, answers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CLIENTS = 6
WHOLE_WITHIN_S = 10.0
JUDGE = "def fine(trace):\n    return bool(trace.answer)\n"


class Traffic:
    """Clients that send until told to stop, and remember the ids of the answers they read to their end."""

    def __init__(self, url: str) -> None:
        self.read: list[str] = []
        self.failed = 0
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(n,)) for n in range(CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _send(self, number: int) -> None:
        body = {
            "model": "bot",
            "messages": [{"role": "user", "content": "x" * 400}],
            "stream": number % 2 == 0,
        }
        client = httpx.Client(timeout=10, trust_env=False)
        while not self._stop.is_set():
            try:
                answer = client.post(f"{self._url}/chat/completions", json=body)
                if answer.status_code == 200:
                    self.read.append(answer.headers["x-tracetune-trace-id"])
            except httpx.HTTPError:
                self.failed += 1
                client.close()
                client = httpx.Client(timeout=10, trust_env=False)
            time.sleep(0.01)
        client.close()


def is_back(system: System, name: str, former: int) -> bool:
    """Another process runs in its place, and a request that is sent now gets an answer."""
    if system.pids()[name] in {None, former}:
        return False
    try:
        answer = httpx.post(
            f"{system.base_url}/chat/completions",
            json={"model": "bot", "messages": []},
            timeout=2,
            trust_env=False,
        )
        with system.store() as store:
            return answer.status_code == 200 and store.ping()
    except (httpx.HTTPError, StoreError):
        return False


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory):
    folder: Path = tmp_path_factory.mktemp("kill")
    (folder / "judge.py").write_text(JUDGE)
    with ScriptedUpstream() as upstream:
        upstream.default = answers("hello " * 50)
        (folder / "tracetune.yaml").write_text(
            f"listen: {{port: {free_port()}, workers: 2}}\n"
            f"upstreams: [{{name: up, base_url: {upstream.base_url}}}]\n"
            "routes: [{model: bot, variants: [{name: stable, upstream: up, model: m}]}]\n"
            'judges: [{name: fine, path: "judge.py:fine"}]\n'
        )
        with running_system(folder / "tracetune.yaml") as running:
            yield running


@pytest.mark.parametrize("name", ["gateway-0", "gateway-1", "recorder", "shipper", "store", "judges"])
def test_a_killed_process_loses_nothing_doubles_nothing_and_is_back_in_ten_seconds(
    system: System, name: str
) -> None:
    with Traffic(system.base_url) as traffic:
        time.sleep(1.0)
        former = system.pids()[name]
        assert former is not None
        system.kill(name)
        killed_at = time.monotonic()
        while not is_back(system, name, former):
            assert time.monotonic() - killed_at < WHOLE_WITHIN_S, f"{name} is not back"
            time.sleep(0.1)
        # Its row is visible within the five seconds that the store promises, from the restart on.
        last = traffic.read[-1]
        system.wait_rows(
            f"SELECT 1 FROM traces WHERE trace_id = '{last}'",
            bool,
            within_s=WHOLE_WITHIN_S - (time.monotonic() - killed_at),
        )

    expected = set(traffic.read)
    assert len(expected) == len(traffic.read) > 50
    rows = system.wait_rows(
        "SELECT toString(trace_id) AS id, count() AS n FROM traces GROUP BY trace_id",
        lambda rows: expected <= {row["id"] for row in rows},
        within_s=15,
    )
    assert [row for row in rows if int(row["n"]) != 1] == []
