"""The whole loop under `up`, with a tiny model: traffic, judgments, training, canary, promotion, rollback.

On the way the learner is killed while it trains, and the server of the promoted snapshot while it serves.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from demo.spoil import spoil
from tests.support.system import System, free_port, running_system, tracetune
from tests.support.tiny_model import make_tiny_model
from tests.support.upstream import ScriptedUpstream, answers

pytestmark = [pytest.mark.slow, pytest.mark.model, pytest.mark.timeout(400)]

JUDGE = "def said_ok(trace):\n    return trace.answer.strip() == 'ok'\n"
CONFIG = """
listen: {{port: {port}}}
upstreams:
  - {{name: dear, base_url: "{upstream}", prices: [{{model: big, input: 500, output: 1000}}]}}
  - name: local
    base_url: http://127.0.0.1:{serve_port}/v1
    price_per_hour: 0.01
    managed: {{engine: peft, model: ./tiny}}
routes:
  - model: bot
    variants: [{{name: stable, upstream: dear, model: big}}]
    fallbacks: [{{upstream: dear, model: big}}]
    rollout:
      autonomy: auto
      preset: cost-first
      margins: {{quality: 0.3}}
      latency_budget_s: 30
      steps: [0.5]
      min_units: 20
      window_s: 1
      settle_s: 5
judges: [{{name: said_ok, path: "judge.py:said_ok"}}]
learner:
  - route: bot
    base_model: ./tiny
    serve_on: local
    judge: said_ok
    dataset: {{min_traces: 60}}
    evaluate: {{few_shot: 1, max_new_tokens: 8}}
    train: {{epochs: 12, learning_rate: 0.01, batch_size: 8, lora_rank: 16}}
"""


def send(system: System, count: int, start: int) -> None:
    def one(number: int) -> None:
        answer = httpx.post(
            f"{system.base_url}/chat/completions",
            json={
                "model": "bot",
                "max_tokens": 8,
                "temperature": 0,
                "messages": [
                    {
                        "role": "user",
                        "content": f"say ok {number * 7919 % 1000:03d} {chr(97 + number % 26) * 5}",
                    }
                ],
            },
            headers={"x-tracetune-session": f"s{number}"},
            timeout=60,
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(one, range(start, start + count)))


def events(system: System, snapshot: str | None = None) -> list[tuple[str, str]]:
    with system.store() as store:
        rows = store.query("SELECT event, snapshot, why FROM rollouts ORDER BY version")
    return [(row["event"], row["why"]) for row in rows if snapshot in {None, row["snapshot"]}]


def drive_until(system: System, ended: str, start: int, within_s: float, snapshot: str | None = None) -> int:
    """Send traffic until a rollout has *ended*; how many sessions were sent in all."""
    deadline = time.monotonic() + within_s
    while ended not in [event for event, _ in events(system, snapshot)]:
        assert time.monotonic() < deadline, (
            events(system),
            tracetune("rollout", "status", "--config", str(system.config_path)).stdout,
            system.logs()[-3000:],
        )
        send(system, 12, start)
        start += 12
    return start


def kill_while_training(system: System) -> None:
    """SIGKILL the learner as soon as a run has begun; the loop must close all the same."""
    deadline = time.monotonic() + 60
    while not list(system.paths.runs.glob("*/run.json")):
        assert time.monotonic() < deadline, system.logs()[-3000:]
        time.sleep(0.1)
    system.kill("learner")


def kill_inference(system: System, sent: int) -> int:
    """SIGKILL the server of the promoted snapshot: fallbacks answer until it has the snapshot again."""
    system.kill("inference-local")
    send(system, 12, sent)  # each asserts a 200
    sent += 12
    deadline = time.monotonic() + 90
    while True:
        send(system, 1, sent)
        sent += 1
        rows = system.wait_rows(
            f"SELECT upstream FROM traces WHERE session = 's{sent - 1}'", lambda rows: len(rows) == 1, 10
        )
        if rows[0]["upstream"] == "local":
            return sent
        assert time.monotonic() < deadline, system.logs()[-3000:]
        time.sleep(0.5)


def test_the_loop_closes_by_itself_and_a_spoilt_snapshot_is_rolled_back(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "tiny", stops=True)
    (tmp_path / "judge.py").write_text(JUDGE)
    with ScriptedUpstream() as upstream:
        upstream.default = answers("ok")
        (tmp_path / "tracetune.yaml").write_text(
            CONFIG.format(port=free_port(), serve_port=free_port(), upstream=upstream.base_url)
        )
        with running_system(tmp_path / "tracetune.yaml") as system:
            gateway = system.pids()["gateway-0"]
            send(system, 80, 0)
            kill_while_training(system)
            sent = drive_until(system, "promoted", 80, within_s=200)

            promoted = httpx.get(
                f"http://127.0.0.1:{system.config.listen.port}/api/routes", trust_env=False
            ).json()
            stable = next(v for v in promoted["routes"][0]["variants"] if v["stable"])
            assert stable["snapshot"] is not None
            assert stable["weight"] == 1.0
            listed = tracetune("snapshot", "verify", stable["snapshot"], "--config", str(system.config_path))
            assert listed.returncode == 0, listed.stderr

            sent = kill_inference(system, sent)

            with system.store() as store:
                spoilt = spoil(system.paths.snapshots, stable["snapshot"], store).snapshot
            started = tracetune(
                "rollout",
                "start",
                "--route",
                "bot",
                "--snapshot",
                spoilt,
                "--config",
                str(system.config_path),
            )
            assert started.returncode == 0, started.stderr
            drive_until(system, "rolled_back", sent, within_s=120, snapshot=spoilt)

            after = httpx.get(
                f"http://127.0.0.1:{system.config.listen.port}/api/routes", trust_env=False
            ).json()
            assert [v["snapshot"] for v in after["routes"][0]["variants"] if v["stable"]] == [
                stable["snapshot"]
            ]
            assert system.pids()["gateway-0"] == gateway, "the gateway was not restarted"
