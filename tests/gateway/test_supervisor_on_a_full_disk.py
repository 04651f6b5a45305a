"""A full disk: nothing is started on it, and what runs already runs on."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from gateway.config import load_config
from gateway.paths import paths_of
from gateway.supervisor.plan import ProcessPlan
from gateway.supervisor.supervisor import Supervisor
from tests.support.disk import small_disk
from tests.support.store import write_config
from tests.support.system import tracetune


@pytest.mark.parametrize("command", ["up", "gateway"])
def test_a_start_on_a_full_disk_is_one_line_and_leaves_nothing_behind(command: str, tmp_path: Path) -> None:
    config_path = write_config(tmp_path / "disk")
    paths = paths_of(load_config(config_path))
    original = config_path.read_bytes()
    with small_disk(tmp_path / "disk", "2m") as disk:
        config_path.write_bytes(original)
        disk.fill(free=0)

        done = tracetune(command, "--config", str(config_path))

        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"tracetune: {paths.data} cannot be written: No space left on device; "
            "free some, or change store.url\n"
        )
        assert sorted(entry.name for entry in disk.path.iterdir()) == ["filler", config_path.name]
        assert not paths.segments.exists()


async def test_a_process_that_dies_on_a_full_disk_is_back_and_said_in_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    pids = tmp_path / "pids"
    code = (
        "import os, time\n"
        f"open({str(pids)!r}, 'a').write(f'{{os.getpid()}} ')\n"
        "while True: print('x' * 1000, flush=True); time.sleep(0.01)"
    )
    plan = ProcessPlan(name="chatty", argv=[sys.executable, "-c", code])
    with small_disk(tmp_path / "disk", "1m") as disk:
        (disk.path / "state").mkdir()
        supervisor = Supervisor(
            [plan], state=disk.path / "state", logs=disk.path / "logs", listener=None, echo=False
        )
        ready = asyncio.Event()
        running = asyncio.create_task(supervisor.run(ready.set))
        await asyncio.wait_for(ready.wait(), 10)
        disk.fill(free=0)
        await asyncio.sleep(0.3)  # until what is left of the log's last page is full, too
        for lives in (2, 3):
            os.kill(int(pids.read_text().split()[-1]), signal.SIGKILL)
            deadline = time.monotonic() + 10
            while len(pids.read_text().split()) < lives:
                assert time.monotonic() < deadline, "it did not come back"
                await asyncio.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(running, 20)

    said = [record.getMessage() for record in caplog.records]
    assert sum("lines for" in line and "No space left" in line for line in said) == 1
    assert any("processes.json cannot be written: No space left" in line for line in said)
    assert "Traceback" not in capfd.readouterr().err
