"""`tracetune check` and `tracetune explain`, as a person runs them."""

from __future__ import annotations

import http.server
import io
import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from gateway.cli.root import main
from gateway.config import load_config
from gateway.paths import paths_of
from gateway.traces.encryption.key_source import KeySource
from gateway.traces.encryption.keyring import open_keyring
from tests.support.control_gateway import YAML, Gateway, running
from tests.support.upstream import Received, Reply, ScriptedUpstream

JUDGE = "def kept(trace):\n    return trace.kept is not None\n"


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def tracetune(directory: Path, *arguments: str, **environ: str) -> Done:
    """The command in this process, from its root on, as its entry point runs it."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(directory)
        patch.setattr(sys, "argv", ["tracetune", *arguments])
        for name, value in {"COLUMNS": "200", **environ}.items():
            patch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main()
    return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def findings(done: Done) -> dict[str, tuple[str, str]]:
    return {found["what"]: (found["state"], found["says"]) for found in json.loads(done.stdout)}


class _Upstream(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        known = self.headers["authorization"] == "Bearer right"
        self.send_response(200 if known else 401)
        self.end_headers()
        if known:
            self.wfile.write(b'{"object": "list", "data": [{"id": "big"}, {"id": "small"}]}')

    def log_message(self, *args: object) -> None:
        del args


@pytest.fixture(scope="module")
def upstream() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Upstream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def written(directory: Path, upstream: int, model: str = "big", more: str = "") -> Path:
    (directory / "my_judges.py").write_text(JUDGE)
    (directory / "model").mkdir()
    (directory / "model/config.json").write_text('{"model_type": "llama"}')
    (directory / "model/model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (directory / "tracetune.yaml").write_text(f"""
listen: {{port: {free_port()}}}
upstreams:
  - {{name: openai, base_url: "http://127.0.0.1:{upstream}/v1", api_key: {{env: OPENAI_KEY}}}}
  - name: local
    base_url: http://127.0.0.1:9/v1
    managed: {{engine: peft, model: model}}
routes:
  - {{model: bot, variants: [{{name: stable, upstream: openai, model: {model}}}]}}
judges: [{{name: kept, path: "my_judges.py:kept"}}]
{more}""")
    return directory


def test_check_passes_where_everything_would_work(tmp_path: Path, upstream: int):
    done = tracetune(written(tmp_path, upstream), "check", "--json", OPENAI_KEY="right")
    assert done.returncode == 0, done.stdout + done.stderr
    states = findings(done)
    assert states["judge kept"] == ("ok", "my_judges.py:kept")
    assert states["model model"][0] == "ok"
    assert states[f"upstream openai http://127.0.0.1:{upstream}/v1"] == ("ok", "answers, 2 models")
    assert states["upstream local http://127.0.0.1:9/v1"][0] == "skipped"
    assert states["store"][0] == "skipped"
    table = tracetune(tmp_path, "check", OPENAI_KEY="right")
    assert (table.returncode, "judge kept" in table.stdout, table.stderr) == (0, True, "")


def test_check_without_probes_asks_nobody(tmp_path: Path):
    done = tracetune(written(tmp_path, 9), "check", "--json", "--no-probe", OPENAI_KEY="right")
    assert done.returncode == 0
    assert not [what for what in findings(done) if what.startswith(("upstream", "store"))]


def test_check_exits_2_for_a_missing_variable_and_names_it(tmp_path: Path, upstream: int):
    done = tracetune(written(tmp_path, upstream), "check", "--json", OPENAI_KEY="")
    assert done.returncode == 2
    assert "OPENAI_KEY is not set" in findings(done)["key of upstream openai"][1]


def test_check_opens_the_keys_of_encrypted_bodies_and_makes_none(tmp_path: Path, upstream: int):
    more = "privacy: {encrypt: per_subject, master_key: {env: MASTER}}\n"
    path = written(tmp_path, upstream, more=more)
    config = load_config(path / "tracetune.yaml")
    what = "keys of encrypted bodies"
    done = tracetune(path, "check", "--json", OPENAI_KEY="right", MASTER="0f" * 32)
    assert findings(done)[what] == ("ok", f"{paths_of(config).keyring} will be made")
    assert not paths_of(config).keyring.exists()
    keyring = open_keyring(KeySource.of(config), {"MASTER": "0f" * 32})
    assert keyring is not None
    keyring.close()
    done = tracetune(path, "check", "--json", OPENAI_KEY="right", MASTER="0e" * 32)
    assert done.returncode == 1
    assert "privacy.master_key does not open" in findings(done)[what][1]
    done = tracetune(path, "check", "--json", OPENAI_KEY="right", MASTER="hunter2")
    assert done.returncode == 2
    assert "hunter2" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("key", "model", "says"),
    [("wrong", "big", "refuses the key (401)"), ("right", "huge", "lists no model 'huge'")],
)
def test_check_exits_1_where_an_upstream_says_no(
    tmp_path: Path, upstream: int, key: str, model: str, says: str
):
    done = tracetune(written(tmp_path, upstream, model), "check", "--json", OPENAI_KEY=key)
    assert done.returncode == 1
    assert says in findings(done)[f"upstream openai http://127.0.0.1:{upstream}/v1"][1]
    assert "wrong" not in done.stdout


def test_check_does_not_repeat_our_key_where_an_upstream_answers_with_it(tmp_path: Path):
    async def quotes_in_nonsense(received: Received, reply: Reply) -> None:
        await reply.raw(repr(received.headers).encode() + b"\r\n\r\n")
        reply.close()

    with ScriptedUpstream() as server:
        server.default = quotes_in_nonsense
        port = urlsplit(server.base_url).port or 0
        done = tracetune(written(tmp_path, port), "check", "--json", OPENAI_KEY="sk-planted-in-check")
    state, says = findings(done)[f"upstream openai http://127.0.0.1:{port}/v1"]

    assert len(server.received) == 1
    assert (state, "cannot be reached" in says) == ("failed", True)
    assert "sk-planted-in-check" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file; write the judge there"),
        ("def kept(:", "my_judges.py:1: does not import: SyntaxError"),
        ("def other(t): ...", "no function 'kept' in it; correct the judge's path"),
        ("\0", "null"),
        ("import nowhere\ndef kept(trace): ...", "my_judges.py:1: does not import: ModuleNotFoundError"),
        ("kept = 3", "'kept' is not a function"),
        ("def kept(answer): ...", "parameter 'answer' is none of trace"),
        ("import sys\nsys.exit(3)", "my_judges.py:2: does not import: SystemExit"),
        ("import os\nos._exit(3)", "ended its process with status 3 while it was imported; move that work"),
    ],
)
def test_check_exits_2_for_a_judge_that_cannot_be(tmp_path: Path, content: str | None, says: str):
    written(tmp_path, 9)
    (tmp_path / "my_judges.py").unlink()
    if content is not None:
        (tmp_path / "my_judges.py").write_text(content)
    done = tracetune(tmp_path, "check", "--json", "--no-probe", OPENAI_KEY="k")
    assert (done.returncode, says in findings(done)["judge kept"][1]) == (2, True), done.stdout


def test_check_exits_1_for_a_folder_that_is_no_model_and_a_port_in_use(tmp_path: Path):
    written(tmp_path, 9)
    (tmp_path / "model/model.safetensors").unlink()
    config = tmp_path / "tracetune.yaml"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        text = config.read_text().splitlines()
        text[1] = f"listen: {{port: {taken.getsockname()[1]}}}"
        config.write_text("\n".join(text))
        done = tracetune(tmp_path, "check", "--json", "--no-probe", OPENAI_KEY="k")
    assert done.returncode == 1
    states = findings(done)
    assert "holds no weights" in states["model model"][1]
    assert "in use by something else" in states[f"listen 127.0.0.1:{taken_port(config)}"][1]


def taken_port(config: Path) -> str:
    return config.read_text().splitlines()[1].split("port: ")[1].rstrip("}")


def test_check_says_one_line_for_a_file_that_is_off(tmp_path: Path):
    (tmp_path / "tracetune.yaml").write_text("upstreams: []\nroutes: []\ntypo: 1\n")
    done = tracetune(tmp_path, "check")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("tracetune: tracetune.yaml: Object contains unknown field `typo`")


def test_check_knows_its_own_gateway_on_the_port(one: Gateway):
    done = tracetune(one.config_path.parent, "check", "--json", "--no-probe")
    assert findings(done)[f"listen 127.0.0.1:{one.port}"] == ("ok", "a tracetune gateway listens there")


def test_explain_asks_the_gateway_then_its_last_table_then_the_configuration(tmp_path: Path):
    ask = ("explain", "--model", "bot", "--session", "s-1", "--json")
    for gateway in running(tmp_path):
        running_answer = json.loads(tracetune(tmp_path, *ask).stdout)
        assert running_answer["source"] == f"the running gateway at {gateway.url}"
        assert running_answer["variant"] == "stable"
        assert running_answer.pop("now") is not None
    saved = json.loads(tracetune(tmp_path, *ask).stdout)
    assert saved["source"].startswith("the last saved table, of 20")
    assert saved.pop("now") is None
    assert {**saved, "source": ""} == {**running_answer, "source": ""}
    (tmp_path / "data/state/table.json").unlink()
    configured = json.loads(tracetune(tmp_path, *ask).stdout)
    assert configured["source"].startswith("the configuration")
    assert configured.pop("now") is None
    assert {**configured, "source": ""} == {**running_answer, "source": ""}
    shown = tracetune(tmp_path, *ask[:-1]).stdout
    assert "stable has all of the traffic" in shown
    assert "0.15" in shown


def test_explain_of_a_table_that_no_longer_fits_falls_back_to_the_configuration(tmp_path: Path):
    for gateway in running(tmp_path):
        gateway.hashes()
    config = tmp_path / "tracetune.yaml"
    config.write_text(config.read_text().replace("openai", "other"))
    done = tracetune(tmp_path, "explain", "--model", "bot", "--json")
    assert "no longer fits" in json.loads(done.stdout)["source"]


def test_explain_of_what_nobody_serves_is_one_line(tmp_path: Path):
    (tmp_path / "tracetune.yaml").write_text(YAML.format(port=9))
    for model in ("nobody", "bot@nobody"):
        done = tracetune(tmp_path, "explain", "--model", model)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert "nobody" in done.stderr
