"""The demo deletes nothing but what lies in a directory that it made itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.directory import check_ours, fresh
from gateway.errors import ConfigError, OperationError
from tests.support.system import free_port, tracetune

CONFIG = Path(__file__).resolve().parents[2] / "config"


def begin(directory: Path) -> None:
    with fresh(directory):
        pass


def test_a_directory_that_the_demo_made_is_emptied_read_only_snapshots_and_all(tmp_path: Path) -> None:
    data = tmp_path / "demo-data"
    begin(data)
    snapshot = data / "snapshots" / "one"
    snapshot.mkdir(parents=True)
    (snapshot / "adapter").write_text("weights")
    (snapshot / "adapter").chmod(0o444)
    snapshot.chmod(0o555)

    begin(data)
    begin(data)

    assert len(list(data.iterdir())) == 1  # its mark, by which the next one knows it


def test_a_directory_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    begin(tmp_path / "data")  # empty: nothing is lost
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "traces").write_text("23")

    with pytest.raises(ConfigError, match="was not made by the demo"):
        check_ours(tmp_path / "theirs")
    with pytest.raises(ConfigError, match="was not made by the demo"):
        begin(tmp_path / "theirs")
    assert [entry.name for entry in (tmp_path / "theirs").iterdir()] == ["traces"]


def test_a_directory_that_a_demo_works_in_is_not_emptied_by_another(tmp_path: Path) -> None:
    with fresh(tmp_path / "data"):
        (tmp_path / "data" / "trace").touch()

        with pytest.raises(OperationError, match="another demo is at work"):
            begin(tmp_path / "data")
        assert (tmp_path / "data" / "trace").exists()


def test_what_a_link_in_the_demos_directory_leads_to_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").write_text("kept")
    begin(tmp_path / "data")
    (tmp_path / "data" / "link").symlink_to(tmp_path / "theirs")
    (tmp_path / "data" / "snapshots").mkdir()
    (tmp_path / "data" / "snapshots" / "link").symlink_to(tmp_path / "theirs")

    begin(tmp_path / "data")

    assert (tmp_path / "theirs" / "file").read_text() == "kept"


@pytest.mark.model
@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["--config", "mine.yaml"], 2, "was not made by the demo"),
        (["--config", "other.yaml"], 2, "ticket-bot"),
        (
            ["--config", "mine.yaml", "--upstream", "https://api.example/v1", "--api-key-env", "NOT_SET"],
            2,
            "NOT_SET",
        ),
    ],
)
def test_a_refused_demo_is_one_line_and_touches_nothing(
    tmp_path: Path, arguments: list[str], code: int, expected: str
) -> None:
    text = (
        (CONFIG / "demo.yaml")
        .read_text()
        .replace("../demo-data", "data")
        .replace("judges/", f"{CONFIG}/judges/")
    )
    (tmp_path / "mine.yaml").write_text(text.replace("8380", str(free_port())))
    (tmp_path / "other.yaml").write_text(text.replace("ticket-bot", "my-bot"))
    (tmp_path / "data" / "state").mkdir(parents=True)
    (tmp_path / "data" / "state" / "salt").write_text("theirs")
    before = sorted(tmp_path.rglob("*"))

    done = tracetune("demo", *arguments, cwd=tmp_path)

    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
    assert expected in done.stderr
    assert sorted(tmp_path.rglob("*")) == before
