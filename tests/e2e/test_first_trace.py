"""From an empty directory to a first judged trace: `init`, `up`, one changed base_url."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import openai
import pytest

from tests.support.system import ROOT, running_system, tracetune
from tests.support.upstream import ScriptedUpstream, answers, streams

pytestmark = pytest.mark.slow


def test_an_empty_directory_gets_to_a_judged_trace_by_init_up_and_one_base_url(tmp_path: Path) -> None:
    with ScriptedUpstream() as upstream:
        upstream.default = answers("Your parcel arrives on Friday.")
        environ = {"OPENAI_API_KEY": "sk-planted-secret", "OPENAI_BASE_URL": upstream.base_url}
        done = tracetune("init", "--yes", "--no-learn", environ=environ, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        base_url = done.stdout.split('base_url="')[1].split('"')[0]

        with running_system(tmp_path / "tracetune.yaml", environ) as system:
            assert base_url == system.base_url
            client = openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0)
            answer = client.chat.completions.create(
                model="my-app", messages=[{"role": "user", "content": "hi"}]
            )
            rows = system.wait_rows(
                "SELECT score, reason, answered.route AS route FROM judgments FINAL "
                "INNER JOIN traces AS answered USING (trace_id)",
                lambda rows: len(rows) == 1,
                within_s=20,
            )
            status = tracetune("status", "--config", str(system.config_path))

            assert answer.choices[0].message.content == "Your parcel arrives on Friday."
            assert (rows[0]["score"], rows[0]["route"]) == (1.0, "my-app")
            assert upstream.received[-1].header("authorization") == "Bearer sk-planted-secret"
            assert "my-app" in status.stdout
            assert "sk-planted-secret" not in system.logs()


@pytest.mark.parametrize("task", ["extraction", "classification", "support", "code", "tool_calls"])
def test_every_judge_that_init_writes_passes_its_own_test(tmp_path: Path, task: str) -> None:
    done = tracetune("init", "--yes", "--no-learn", "--task", task, cwd=tmp_path)
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_judges.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert tested.returncode == 0, tested.stdout


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "my_judges.py").write_text("mine")
    done = tracetune("init", "--yes", cwd=tmp_path)

    assert done.returncode == 1
    assert "my_judges.py exists already" in done.stderr
    assert not (tmp_path / "tracetune.yaml").exists()
    assert (tmp_path / "my_judges.py").read_text() == "mine"


def test_the_openai_client_gets_the_same_objects_with_and_without_the_gateway(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi"}]
    with ScriptedUpstream() as upstream:
        environ = {"OPENAI_API_KEY": "sk-x", "OPENAI_BASE_URL": upstream.base_url}
        tracetune("init", "--yes", "--no-learn", environ=environ, cwd=tmp_path)
        with running_system(tmp_path / "tracetune.yaml", environ) as system:
            direct = openai.OpenAI(base_url=upstream.base_url, api_key="sk-x")
            through = openai.OpenAI(base_url=system.base_url, api_key="unused")
            upstream.default = answers("hello")
            buffered = [
                c.chat.completions.create(model="my-app", messages=messages) for c in (direct, through)
            ]
            upstream.default = streams(["he", "llo"])
            streamed = [
                [
                    chunk.to_dict()
                    for chunk in c.chat.completions.create(model="my-app", messages=messages, stream=True)
                ]
                for c in (direct, through)
            ]

            assert buffered[0].to_dict() == buffered[1].to_dict()
            assert streamed[0] == streamed[1]
            rows = system.wait_rows(
                "SELECT stream, outcome, finish_reason, tokens_in FROM traces ORDER BY started_at",
                lambda rows: len(rows) == 2,
                10,
            )
            assert [(row["stream"], row["outcome"], row["finish_reason"]) for row in rows] == [
                (False, "ok", "stop"),
                (True, "ok", "stop"),
            ]
            page = httpx.get(system.base_url.removesuffix("/v1") + "/metrics").text
            name = "gen_ai_client_inference_usage_input_tokens_total{"
            counted = [float(line.split()[-1]) for line in page.splitlines() if line.startswith(name)]
            assert counted == [sum(row["tokens_in"] or 0 for row in rows)]
