"""Whatever ends the demo ends what it started; what stands in its way is named with all that is to be stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from demo.occupants import check_nobody, listens, occupants
from demo.processes import running
from gateway.errors import OperationError
from tests.support.system import ROOT, free_port, tracetune
from tests.support.tiny_model import make_tiny_model

# Two stand-ins run while the block lasts; the block is where the demo is most of the time, in asyncio.
DEMO = """
import asyncio, signal, sys
from contextlib import ExitStack
from pathlib import Path
from demo.directory import fresh
from demo.processes import running
from demo.signals import ended_as_by_ctrl_c

data = Path(sys.argv[1])
# As this test runs itself says nothing of how the demo is started.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.SIG_IGN if sys.argv[2] == "background" else signal.default_int_handler)
with ended_as_by_ctrl_c(), fresh(data), ExitStack() as processes:
    for port in sys.argv[3:]:
        argv = [sys.executable, "-m", "demo.frontier", "--port", port, "--delay-s", "0"]
        url = f"http://127.0.0.1:{port}/v1/models"
        processes.enter_context(running("stand-in", argv, url, data / "logs" / f"{port}.log", keep=False))
    print("running", flush=True)
    asyncio.run(asyncio.sleep(60))
"""


class Demo:
    def __init__(self, data: Path, how: str = "foreground") -> None:
        self.data = data
        self.ports = [free_port(), free_port()]
        self.process = subprocess.Popen(
            [sys.executable, "-c", DEMO, str(data), how, *map(str, self.ports)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"running\n"

    def left(self) -> list[int]:
        """What still runs, after a while in which it may end."""
        deadline = time.monotonic() + 10
        while (found := occupants(self.data, self.ports)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return [one.pid for one in found]


def to_it(demo: Demo) -> None:
    demo.process.terminate()


def to_its_group_and_twice(demo: Demo) -> None:
    demo.process.terminate()  # as `timeout` does
    os.killpg(demo.process.pid, signal.SIGTERM)
    time.sleep(0.05)
    demo.process.terminate()


@pytest.mark.parametrize("how", ["foreground", "background"])
@pytest.mark.parametrize("send", [to_it, to_its_group_and_twice])
def test_sigterm_stops_all_that_was_started(tmp_path: Path, send: Callable[[Demo], None], how: str) -> None:
    demo = Demo(tmp_path / "data", how)
    assert [one.pid for one in occupants(demo.data, demo.ports)] == [demo.process.pid]

    send(demo)

    assert demo.process.wait(20) == 128 + signal.SIGTERM
    assert occupants(demo.data, demo.ports) == []  # already, not soon


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_no_end_of_the_demo_leaves_anything_behind(tmp_path: Path, number: signal.Signals) -> None:
    demo = Demo(tmp_path / "data")

    demo.process.send_signal(number)
    demo.process.wait(20)

    assert demo.left() == []


def test_a_former_demo_is_named_with_all_that_is_to_be_stopped(tmp_path: Path) -> None:
    data, port = tmp_path / "data", free_port()
    logs = data / "logs"
    logs.mkdir(parents=True)
    trainer = "import time; time.sleep(60)"
    with (logs / "a.log").open("wb") as log, (logs / "a.log").open("rb") as reading:
        writes = subprocess.Popen([sys.executable, "-c", trainer], stdout=log)
        reads = subprocess.Popen([sys.executable, "-c", trainer], stdin=reading)
    serves = subprocess.Popen([sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"])
    try:
        while not listens(serves.pid, port):
            time.sleep(0.05)

        with pytest.raises(OperationError) as refusal:
            check_nobody(data, [("127.0.0.1", port)], Path("demo.yaml"))

        first, second = sorted([writes.pid, serves.pid])
        assert f"kill {first} {second}, or set other ports in demo.yaml" in str(refusal.value)
        assert f"http.server ({serves.pid}) listens on port {port}" in str(refusal.value)
        assert str(reads.pid) not in str(refusal.value)
    finally:
        for process in (writes, reads, serves):
            process.kill()
            process.wait()
    check_nobody(data, [("127.0.0.1", port)], Path("demo.yaml"))


def test_another_that_answers_on_the_port_is_not_taken_for_what_was_started(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    other = subprocess.Popen(
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"], cwd=tmp_path
    )
    try:
        while not listens(other.pid, port):
            time.sleep(0.05)
        ours = [sys.executable, "-c", "import time; time.sleep(2); raise SystemExit('port in use')"]

        with (
            pytest.raises(OperationError, match="ended while starting: port in use"),
            running("ours", ours, f"http://127.0.0.1:{port}/", tmp_path / "log", keep=False),
        ):
            pass
    finally:
        other.kill()
        other.wait()


@pytest.mark.slow
@pytest.mark.model
def test_sigterm_to_the_group_of_a_demo_in_the_midst_of_its_traffic_leaves_nothing(tmp_path: Path) -> None:
    ports = {str(port): str(free_port()) for port in (8380, 8381, 8382)}
    text = (ROOT / "config" / "demo.yaml").read_text().replace("../demo-data", "data")
    text = text.replace("../models/smollm2-135m-instruct", "model").replace(
        "judges/", f"{ROOT}/config/judges/"
    )
    for former, port in ports.items():
        text = text.replace(former, port)
    (tmp_path / "demo.yaml").write_text(text)
    make_tiny_model(tmp_path / "model")
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway.cli.root", "demo", "--config", "demo.yaml"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None
    while b"1. Traffic" not in (line := process.stderr.readline()):
        assert line or process.poll() is None
    listening = [int(port) for port in ports.values()]
    again = tracetune("demo", "--config", "demo.yaml", cwd=tmp_path)

    os.killpg(process.pid, signal.SIGTERM)

    assert process.wait(60) == 128 + signal.SIGTERM
    assert occupants(tmp_path / "data", listening) == []
    assert (again.returncode, f"kill {process.pid}, or" in again.stderr) == (1, True), again.stderr
    assert (
        tmp_path / "data" / "store"
    ).is_dir()  # what it had stored is still there, and so it was all along
