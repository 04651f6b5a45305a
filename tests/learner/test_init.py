"""What `init` writes is what was said, valid, and whole; a refused `init` leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cli.new_files import place_new
from gateway.config import Config
from gateway.config.load import parse_config
from gateway.errors import OperationError, TracetuneError
from learner.init.cli import init
from learner.init.machine import PROVIDERS, Machine, Provider, look
from learner.init.questions import MAX_QUESTIONS
from learner.init.render import Answers, render_config
from learner.serving.vllm_python import VLLM_PYTHON, vllm_starts

ROOT = Path(__file__).resolve().parents[2]
NO_KEYS = {provider.key_env: "" for provider in PROVIDERS} | {"OPENAI_BASE_URL": ""}
FILES = {"tracetune.yaml", "my_judges.py", "test_my_judges.py"}


def run(folder: Path, *options: str, environ: Mapping[str, str] = {}, answers: str | None = None) -> Result:
    """`tracetune init` in *folder*, with only the keys of *environ*."""
    arguments = ["--dir", str(folder), *options]
    return CliRunner().invoke(init, arguments, input=answers, env={**NO_KEYS, **environ})


def written(folder: Path) -> Config:
    return parse_config((folder / "tracetune.yaml").read_text(), "written", folder)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--route", "a@b"], "'@' separates a route"),
        (["--route", "x" * 201], "length <= 200"),
        (["--base-url", "nonsense"], "'nonsense' is not an http(s) URL"),
        (["--base-url", "http://x y/v1"], "without spaces"),
        (["--base-url", "http://x/v1\n"], "without spaces"),
        (["--base-url", "https://me:planted@x/v1"], "credentials in a URL are a literal secret"),
    ],
)
def test_a_refused_init_leaves_nothing_behind(tmp_path: Path, options: list[str], reason: str) -> None:
    folder = tmp_path / "new" / "deep"
    done = run(folder, "--yes", "--no-learn", *options)

    assert isinstance(done.exception, TracetuneError)
    assert done.exception.exit_code == 2
    assert reason in str(done.exception)
    assert "planted" not in str(done.exception)
    assert list(tmp_path.iterdir()) == []
    assert run(folder, "--yes", "--no-learn").exit_code == 0


def test_a_malformed_base_url_of_the_environment_is_refused_too(tmp_path: Path) -> None:
    environ = {"OPENAI_API_KEY": "sk-x", "OPENAI_BASE_URL": "http://x y/v1"}
    done = run(tmp_path / "new", "--yes", environ=environ)

    assert "without spaces" in str(done.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "route", ["null", "No", "on", "123", "1e5", "a: b", "#x", "{a}", "a\u2028b", "é", "'"]
)
def test_a_route_reads_back_as_it_was_typed(tmp_path: Path, route: str) -> None:
    assert run(tmp_path, "--yes", "--no-learn", "--route", route).exit_code == 0
    assert written(tmp_path).routes[0].model == route


@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_any_text_reads_back_from_the_configuration_as_it_went_in(text: str) -> None:
    provider = Provider(name="u", key_env="", base_url="http://u/v1", model=text, prices=(1, 2))
    config = parse_config(
        render_config(Answers(provider=provider, route="r", task="support", learn=False), machine()),
        "rendered",
        Path("/"),
    )

    assert config.routes[0].variants[0].model == text
    assert config.upstreams[0].prices[0].model == text


def test_no_file_of_an_earlier_init_is_replaced_and_no_question_asked_first(tmp_path: Path) -> None:
    (tmp_path / "test_my_judges.py").write_text("mine")
    done = run(tmp_path)

    assert "test_my_judges.py exists already" in str(done.exception)
    assert done.output == ""
    assert [path.name for path in tmp_path.iterdir()] == ["test_my_judges.py"]


def test_a_link_that_leads_nowhere_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "my_judges.py").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OperationError, match="exists already"):
        place_new(tmp_path, {"my_judges.py": "text"})
    assert not (tmp_path / "elsewhere").exists()


_FULL = """
import resource, sys
from pathlib import Path
from gateway.errors import OperationError
from gateway.cli.new_files import place_new
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    place_new(Path(sys.argv[1]), {"first": "x" * 900, "second": "x" * 5000})
except OperationError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("made_before", [True, False])
def test_a_write_that_fails_half_way_leaves_nothing_behind(tmp_path: Path, made_before: bool) -> None:
    folder = tmp_path / "new"
    if made_before:
        folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(folder)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )

    assert done.stderr.strip() == f"{folder / 'second'} cannot be written: File too large"
    assert [*tmp_path.rglob("*")] == ([folder] if made_before else [])


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(tmp_path / "file" / "x", "--yes")

    assert isinstance(done.exception, OperationError)
    assert "cannot be made" in str(done.exception)


def upstream(folder: Path) -> tuple[str, str | None]:
    """Where the written default upstream is, and the variable its key is in."""
    entry = next(entry for entry in written(folder).upstreams if entry.default)
    return entry.servers[0], entry.api_key and entry.api_key.env


OPENAI = "https://api.openai.com/v1"
OTHER = "https://other.example/v1"
HAS_OPENAI = {"OPENAI_API_KEY": "sk-x"}
PAIRED = {"OPENAI_API_KEY": "sk-x", "OPENAI_BASE_URL": OTHER}
MISTRAL = "https://api.mistral.ai/v1"


@pytest.mark.parametrize(
    ("environ", "options", "expected"),
    [
        (HAS_OPENAI, [], (OPENAI, "OPENAI_API_KEY")),
        (HAS_OPENAI, ["--base-url", OTHER], (OTHER, None)),
        (HAS_OPENAI, ["--base-url", OTHER, "--api-key-env", "MINE"], (OTHER, "MINE")),
        (HAS_OPENAI, ["--base-url", OPENAI], (OPENAI, "OPENAI_API_KEY")),
        (HAS_OPENAI, ["--base-url", "https://api.openai.com:443/v2"], ("https://api.openai.com:443/v2", "OPENAI_API_KEY")),
        (HAS_OPENAI, ["--base-url", "http://api.openai.com/v1"], ("http://api.openai.com/v1", None)),
        (HAS_OPENAI, ["--base-url", "https://api.openai.com.evil.example/v1"], ("https://api.openai.com.evil.example/v1", None)),
        (HAS_OPENAI, ["--base-url", MISTRAL], (MISTRAL, "MISTRAL_API_KEY")),
        (HAS_OPENAI, ["--api-key-env", "MISTRAL_API_KEY"], (MISTRAL, "MISTRAL_API_KEY")),
        (PAIRED, [], (OTHER, "OPENAI_API_KEY")),
        (PAIRED, ["--base-url", OPENAI], (OPENAI, None)),
        ({}, ["--base-url", OTHER], (OTHER, None)),
        ({}, ["--base-url", OTHER, "--api-key-env", "MINE"], (OTHER, "MINE")),
    ],
)  # fmt: skip
def test_a_key_goes_only_where_it_belongs_or_is_sent_by_name(
    tmp_path: Path, environ: dict[str, str], options: list[str], expected: tuple[str, str | None]
) -> None:
    done = run(tmp_path, "--yes", "--no-learn", *options, environ=environ)

    url, key = upstream(tmp_path)
    assert (url, key) == expected
    assert (
        f"The key in {key} goes to {url} and nowhere else" if key else f"No key goes to {url}"
    ) in done.output
    assert ("export it" in done.output) == (key is not None and key not in environ)


@pytest.mark.parametrize(
    ("environ", "options", "answers", "expected"),
    [
        (HAS_OPENAI, [], [], (OPENAI, "OPENAI_API_KEY")),
        (HAS_OPENAI, [], [OTHER], (OTHER, None)),
        (HAS_OPENAI, [], [OTHER, "MINE"], (OTHER, "MINE")),
        (HAS_OPENAI, ["--base-url", OTHER], ["MINE"], (OTHER, "MINE")),
        (HAS_OPENAI, ["--api-key-env", "OPENAI_API_KEY"], [OTHER], (OTHER, "OPENAI_API_KEY")),
        (HAS_OPENAI, [], [MISTRAL], (MISTRAL, "MISTRAL_API_KEY")),
        ({}, [], [OTHER, "gsk_pasted", "MINE"], (OTHER, "MINE")),
    ],
)
@pytest.mark.parametrize("has_model", [False, True])
def test_for_another_url_the_key_is_asked_for_within_five_questions(
    tmp_path: Path,
    environ: dict[str, str],
    options: list[str],
    answers: list[str],
    expected: tuple[str, str | None],
    has_model: bool,
) -> None:
    if has_model:
        (tmp_path / "models" / "m").mkdir(parents=True)
        (tmp_path / "models" / "m" / "config.json").write_text("{}")
    typed = "\n".join([*answers, *[""] * 6])
    done = run(tmp_path, *options, environ=environ, answers=typed)

    assert done.exit_code == 0, done.output
    assert upstream(tmp_path) == expected
    refused = done.output.count("not the key itself")
    assert done.output.count("]: ") + done.output.count("none): ") - refused <= MAX_QUESTIONS
    assert refused == ("gsk_pasted" in answers)


def test_a_url_that_is_none_is_asked_for_again(tmp_path: Path) -> None:
    done = run(tmp_path, environ=HAS_OPENAI, answers=f"nonsense\nhttp://x y\n{OTHER}\n\n\n\n\n\n")

    assert done.exit_code == 0, done.output
    assert done.output.count("is not an http(s) URL") == 2
    assert upstream(tmp_path) == (OTHER, None)


@pytest.mark.parametrize("pasted", ["sk-proj-planted", "gsk_planted", "A: planted}"])
def test_a_key_in_place_of_its_name_is_refused_and_not_shown(tmp_path: Path, pasted: str) -> None:
    done = run(tmp_path / "new", "--yes", "--base-url", OTHER, "--api-key-env", pasted)

    assert "not the key itself" in str(done.exception)
    assert "planted" not in str(done.exception) + done.output
    assert list(tmp_path.iterdir()) == []


def test_a_key_of_nobody_known_needs_its_upstream(tmp_path: Path) -> None:
    done = run(tmp_path, "--yes", "--api-key-env", "MINE", environ=HAS_OPENAI)

    assert "whose key MINE holds is not known; name its upstream with --base-url" in str(done.exception)


@pytest.mark.parametrize(
    ("python", "gpu", "engine"),
    [
        ("#!/bin/sh\nexit 0\n", True, "vllm"),
        ("#!/bin/sh\nexit 1\n", True, "peft"),  # there, but its import fails
        (None, True, "peft"),  # the variable names nothing
        ("#!/bin/sh\nexit 0\n", False, "peft"),
    ],
)
def test_vllm_is_written_only_where_it_starts(
    tmp_path: Path, python: str | None, gpu: bool, engine: str
) -> None:
    (tmp_path / "models" / "m").mkdir(parents=True)
    (tmp_path / "models" / "m" / "config.json").write_text("{}")
    driver, interpreter = tmp_path / "driver", tmp_path / "python"
    if gpu:
        driver.write_text("")
    if python is not None:
        interpreter.write_text(python)
        interpreter.chmod(0o755)
    found = look({VLLM_PYTHON: str(interpreter)}, tmp_path, driver)
    text = render_config(Answers(provider=None, route="r", task="support", learn=True), found)
    managed = parse_config(text, "rendered", tmp_path).upstreams[0].managed

    assert managed is not None
    assert (managed.engine, managed.model) == (engine, tmp_path / "models" / "m")
    assert ("To switch" in text) == (gpu and engine == "peft")


def test_a_vllm_that_hangs_is_none(tmp_path: Path) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text("#!/bin/sh\nexec sleep 60\n")
    interpreter.chmod(0o755)

    assert not vllm_starts({VLLM_PYTHON: str(interpreter), "PATH": "/usr/bin:/bin"}, within_s=0.2)


def test_a_base_model_beside_the_configuration_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app" / "models" / "m").mkdir(parents=True)
    (tmp_path / "app" / "models" / "m" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    found = look({}, Path("app"), tmp_path / "driver")

    assert found.base_model == tmp_path / "app" / "models" / "m"


def machine(**changes: object) -> Machine:
    """A machine with nothing on it, but for *changes*."""
    found = {
        "provider": None,
        "memory_gb": 8.0,
        "gpu": False,
        "vllm": False,
        "torch": False,
        "base_model": None,
        "port": 8080,
        "serve_port": 9080,
    }
    return Machine(**(found | changes))  # type: ignore[arg-type]
