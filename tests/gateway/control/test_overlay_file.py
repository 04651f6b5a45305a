"""The overlay on disk: whole at every moment, one writer at a time, a bad file set aside."""

from __future__ import annotations

import fcntl
import logging
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from gateway import overlay_file, salt, state_file
from gateway.errors import OperationError
from gateway.overlay import Overlay, OverlayEntry
from gateway.overlay_file import OverlayFile
from gateway.table import TableRoute, TableVariant

REPOSITORY = Path(__file__).parents[3]


def entry(version: int) -> OverlayEntry:
    stable = TableVariant(name="stable", upstream="u", model="m", snapshot=None, weight=1.0, stable=True)
    route = TableRoute(
        model="bot", version=version, sticky_by="session", variants=[stable], fallbacks=[], capture="full",
        rollout=None,
    )  # fmt: skip
    return OverlayEntry(base="b", route=route, history=[], trial=None, events=[])


def raised(overlay: Overlay) -> Overlay:
    """One more decision on the route."""
    held = overlay.routes.get("bot")
    return Overlay(routes={"bot": entry(held.route.version + 1 if held else 1)})


def test_no_file_is_an_empty_overlay_and_an_unchanged_one_is_not_written(tmp_path: Path):
    file = OverlayFile(tmp_path / "state")
    assert file.read() == Overlay()
    assert file.update(lambda overlay: overlay) == Overlay()
    assert file.stamp() is None


def test_every_write_changes_the_stamp_and_is_read_back(tmp_path: Path):
    file = OverlayFile(tmp_path)
    stamps = {file.stamp()}
    for _ in range(5):
        written = file.update(raised)
        assert file.read() == written
        stamps.add(file.stamp())
    assert len(stamps) == 6


def test_concurrent_writers_lose_no_update(tmp_path: Path):
    def work() -> None:
        for _ in range(25):
            OverlayFile(tmp_path).update(raised)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert OverlayFile(tmp_path).read().routes["bot"].route.version == 100


def test_what_a_change_raises_leaves_the_file_as_it_was(tmp_path: Path):
    file = OverlayFile(tmp_path)
    file.update(raised)

    def refuse(overlay: Overlay) -> Overlay:
        raise OperationError("no")

    with pytest.raises(OperationError, match="no"):
        file.update(refuse)
    assert file.read().routes["bot"].route.version == 1
    file.update(raised)


@pytest.mark.parametrize("content", [b"", b"{", b'{"routes": 3}', b'{"format": 2}', b"\xff\x00", b"null"])
def test_a_corrupt_file_is_set_aside_with_one_line(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
):
    file = OverlayFile(tmp_path)
    file.path.write_bytes(content)
    with caplog.at_level(logging.ERROR):
        assert file.read() == Overlay()
        assert file.read() == Overlay()
    assert len(caplog.records) == 1
    assert "routes start from the configuration" in caplog.text
    aside = [path for path in tmp_path.iterdir() if ".bad-" in path.name]
    assert [path.read_bytes() for path in aside] == [content]


def test_a_file_that_cannot_be_ours_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(state_file, "MAX_STATE_BYTES", 10)
    file = OverlayFile(tmp_path)
    file.path.write_bytes(b'{"format": 1, "routes": {}}')
    assert file.read() == Overlay()
    assert not file.path.exists()


def test_a_stuck_writer_is_named_and_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(overlay_file, "LOCK_WAIT_S", 0.05)
    with (tmp_path / "overlay.lock").open("w") as stuck:
        fcntl.flock(stuck, fcntl.LOCK_EX)
        with pytest.raises(OperationError, match=r"overlay\.lock has been held"):
            OverlayFile(tmp_path).update(raised)


def test_a_directory_that_refuses_is_one_clear_line(tmp_path: Path):
    blocked = tmp_path / "state"
    blocked.write_text("a file")
    with pytest.raises(OperationError, match="check the disk and the permissions"):
        OverlayFile(blocked).update(raised)


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, "tests/gateway/control")
from test_overlay_file import raised
from gateway.overlay_file import OverlayFile
file = OverlayFile(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    print(file.update(raised).routes["bot"].route.version, flush=True)
"""


def test_sigkill_at_any_moment_leaves_a_whole_file_with_every_acknowledged_decision(tmp_path: Path):
    chance = random.Random(7)
    for _ in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.005, 0.06))
        writer.send_signal(signal.SIGKILL)
        acknowledged = [int(line) for line in writer.stdout.read().split("\n")[:-1]]
        writer.stdout.close()
        writer.wait()
        on_disk = msgspec.json.decode((tmp_path / "overlay.json").read_bytes(), type=Overlay)
        assert on_disk.routes["bot"].route.version >= max(acknowledged, default=1)
        assert OverlayFile(tmp_path).update(raised) == OverlayFile(tmp_path).read()
    assert {path.name for path in tmp_path.iterdir()} <= {
        "overlay.json",
        "overlay.lock",
        "overlay.json.tmp",
    }


def test_the_salt_is_made_once_kept_secret_and_shared(tmp_path: Path):
    state = tmp_path / "state"
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(salt.load_salt(state))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert len(found[0]) == 32
    assert (state / "salt").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in state.iterdir()] == ["salt"]


def test_a_damaged_salt_is_refused_with_the_remedy(tmp_path: Path):
    (tmp_path / "salt").write_bytes(b"short")
    with pytest.raises(OperationError, match="remove it"):
        salt.load_salt(tmp_path)
