"""What a user can get wrong is one line that names the place and the remedy, the documented exit code, no traceback."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.system import free_port, tracetune
from tests.support.tiny_model import make_tiny_model

UPSTREAM = "upstreams: [{name: up, base_url: http://127.0.0.1:9/v1, default: true}]\n"
ROUTE = "routes: [{model: bot, variants: [{name: stable, upstream: up, model: m}]}]\n"
LEARNER = (
    'judges: [{name: j, path: "judge.py:good"}]\n'
    "learner: [{route: bot, base_model: ./model, serve_on: up, judge: j}]\n"
)


def write(folder: Path, text: str) -> Path:
    path = folder / "tracetune.yaml"
    path.write_text(text)
    return path


def refuse(
    path: Path, code: int, expected: str, *arguments: str, environ: dict[str, str] | None = None
) -> None:
    done = tracetune(*arguments, "--config", str(path), environ=environ or {}, cwd=path.parent)

    assert (code, "Traceback" in done.stderr) == (done.returncode, False), done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("tracetune: ")]
    assert len(lines) == 1, done.stderr
    assert expected in lines[0]


@pytest.mark.parametrize("command", ["up", "gateway", "check", "sql"])
def test_a_typo_in_the_configuration_is_exit_2_from_every_command(tmp_path: Path, command: str) -> None:
    path = write(tmp_path, UPSTREAM + ROUTE.replace("model: m", "model: m, weigth: 1"))
    arguments = [command, "SELECT 1"] if command == "sql" else [command]

    refuse(path, 2, "unknown field `weigth` - at `$.routes[0].variants[0]`", *arguments)


@pytest.mark.parametrize("command", ["up", "gateway", "check"])
def test_a_missing_variable_is_exit_2_and_named(tmp_path: Path, command: str) -> None:
    path = write(tmp_path, UPSTREAM.replace("default", "api_key: {env: NOT_SET_HERE}, default") + ROUTE)

    refuse(path, 2, "NOT_SET_HERE is not set", command)


@pytest.mark.parametrize("command", ["up", "gateway"])
def test_a_busy_port_is_exit_1_and_named(tmp_path: Path, command: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        refuse(write(tmp_path, f"listen: {{port: {port}}}\n" + UPSTREAM + ROUTE), 1, f"port {port}", command)


def managed(tmp_path: Path, server_port: int) -> Path:
    return write(
        tmp_path,
        f"listen: {{port: {free_port()}}}\n"
        + UPSTREAM.replace(":9/", f":{server_port}/").replace(
            "default", "managed: {engine: peft, model: ./model}, default"
        )
        + ROUTE,
    )


def cut_weights(model: Path) -> str:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    return "model.safetensors is damaged: it has"


def no_weights(model: Path) -> str:
    (model / "model.safetensors").unlink()
    return "holds no weights"


def no_type(model: Path) -> str:
    (model / "config.json").write_text("{}")
    return "config.json names no model_type"


def no_directory(model: Path) -> str:
    shutil.rmtree(model)
    return "model is not there"


def no_tokenizer(model: Path) -> str:
    for file in model.glob("tokenizer*"):
        file.unlink()
    return "it lacks a tokenizer"


def unknown_type(model: Path) -> str:
    path = model / "config.json"
    path.write_text(path.read_text().replace('"llama"', '"martian"'))
    return "the model cannot be loaded"


@pytest.mark.parametrize(
    "spoil",
    [cut_weights, no_weights, no_type, no_directory, no_tokenizer, unknown_type],
    ids=lambda f: f.__name__,
)
def test_a_managed_model_that_cannot_be_served_is_exit_1_and_never_up(
    tmp_path: Path, spoil: Callable[[Path], str]
) -> None:
    model = make_tiny_model(tmp_path / "model")
    expected = spoil(model)

    done = tracetune("up", "--config", str(managed(tmp_path, free_port())))

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "tracetune is up" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("tracetune: ")]
    assert str(model) in line
    assert expected in line


def test_a_managed_port_that_another_has_is_exit_1_and_named(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "model")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        path = managed(tmp_path, other.getsockname()[1])

        refuse(
            path, 1, f"$.upstreams[0].base_url: port {other.getsockname()[1]} on 127.0.0.1 is in use", "up"
        )


@pytest.mark.slow
def test_too_few_judged_traces_are_exit_3_with_the_numbers(tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text("def good(trace):\n    return True\n")
    (tmp_path / "model").mkdir()
    path = write(tmp_path, UPSTREAM + ROUTE + LEARNER)

    refuse(path, 3, "0 of 200 judged traces", "learn", "dataset")
    refuse(path, 1, str(tmp_path / "model"), "learn", "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def good(trace)\n", "judge.py"),
        ("import no_such_module\n\ndef good(trace):\n    return True\n", "no_such_module"),
        ("raise RuntimeError('at import')\n", "at import"),
        ("def other(trace):\n    return True\n", "good"),
    ],
)
def test_a_judge_file_that_cannot_be_used_is_exit_2_and_says_why(
    tmp_path: Path, text: str, expected: str
) -> None:
    (tmp_path / "judge.py").write_text(text)
    path = write(tmp_path, UPSTREAM + ROUTE + 'judges: [{name: j, path: "judge.py:good"}]\n')

    refuse(path, 2, expected, "judge", "try", "judge.py:good")


def test_an_unknown_command_and_an_unknown_option_are_exit_2() -> None:
    assert tracetune("no-such-command").returncode == 2
    assert tracetune("status", "--no-such-option").returncode == 2
    assert tracetune("explain").returncode == 2
