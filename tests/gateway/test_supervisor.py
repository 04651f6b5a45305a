"""The supervisor starts in order, restarts what dies, stops in reverse and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path

import msgspec
import pytest

from gateway.config import load_config
from gateway.errors import OperationError
from gateway.supervisor.plan import ProcessPlan, plan_up
from gateway.supervisor.run import supervise
from gateway.supervisor.supervisor import Processes, Supervisor

LOOP = "import signal, sys, time\nsignal.signal(15, lambda *a: sys.exit(0))\nprint('started', flush=True)\n"
FOREVER = LOOP + "time.sleep(600)"


def plan(name: str, code: str, tmp_path: Path, **settings: object) -> ProcessPlan:
    traced = f"open({str(tmp_path / 'order')!r}, 'a').write('+{name} ')\n" + code
    return ProcessPlan(name=name, argv=[sys.executable, "-c", traced], **settings)  # type: ignore[arg-type]


def supervisor(tmp_path: Path, plans: list[ProcessPlan]) -> Supervisor:
    (tmp_path / "state").mkdir(exist_ok=True)
    return Supervisor(plans, state=tmp_path / "state", logs=tmp_path / "logs", listener=None, echo=False)


def processes(tmp_path: Path) -> Processes:
    return msgspec.json.decode((tmp_path / "state" / "processes.json").read_bytes(), type=Processes)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


async def until(condition, within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def up(tmp_path: Path, plans: list[ProcessPlan]):
    ready = asyncio.Event()
    task = asyncio.create_task(supervisor(tmp_path, plans).run(ready.set))
    waiter = asyncio.create_task(ready.wait())
    await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        waiter.cancel()
        task.result()
    yield task
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(task, 20)


async def test_processes_start_in_order_and_nothing_is_left_behind(tmp_path: Path) -> None:
    async with up(tmp_path, [plan("a", FOREVER, tmp_path), plan("b", FOREVER, tmp_path)]):
        pids = [process.pid for process in processes(tmp_path).processes]

    assert (tmp_path / "order").read_text() == "+a +b "
    assert [running(pid) for pid in pids if pid] == [False, False]
    assert not (tmp_path / "state" / "processes.json").exists()


async def test_workers_of_one_socket_stop_together_and_take_no_more_connections(tmp_path: Path) -> None:
    code = (
        "import pathlib, signal, time\n"
        f"told = pathlib.Path({str(tmp_path)!r})\n"
        "def stop(*_):\n"
        "    (told / NAME).touch()\n"
        "    while not all((told / name).exists() for name in ('worker-0', 'worker-1')):\n"
        "        time.sleep(0.01)\n"
        "    (told / 'order').open('a').write('-' + NAME + ' ')\n"
        "    raise SystemExit\n"
        "signal.signal(15, stop)\n"
        "while True: time.sleep(600)"
    )
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    plans = [
        plan("recorder", FOREVER, tmp_path),
        *(
            plan(name, f"NAME = {name!r}\n{code}", tmp_path, listens=True)
            for name in ("worker-0", "worker-1")
        ),
    ]
    (tmp_path / "state").mkdir()
    served = Supervisor(
        plans, state=tmp_path / "state", logs=tmp_path / "logs", listener=listener, echo=False
    )
    await served.run(lambda: os.kill(os.getpid(), signal.SIGTERM))

    assert sorted((tmp_path / "order").read_text().split()[3:]) == ["-worker-0", "-worker-1"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


async def test_a_killed_process_is_back_within_ten_seconds(tmp_path: Path) -> None:
    async with up(tmp_path, [plan("a", FOREVER, tmp_path)]):
        before = processes(tmp_path).processes[0].pid
        assert before is not None
        os.kill(before, signal.SIGKILL)
        await until(lambda: processes(tmp_path).processes[0].pid not in {before, None})

        assert processes(tmp_path).processes[0].restarts == 1


async def test_what_a_child_started_goes_with_it(tmp_path: Path) -> None:
    grandchild = tmp_path / "grandchild"
    code = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(grandchild)!r}, 'w').write(str(p.pid))\ntime.sleep(600)"
    )
    async with up(tmp_path, [plan("a", code, tmp_path, stop_within_s=0.5)]):
        await until(lambda: grandchild.exists() and bool(grandchild.read_text()))

    await until(lambda: not running(int(grandchild.read_text())), within_s=2.0)


async def test_a_process_that_cannot_start_stops_the_rest_and_says_its_last_line(tmp_path: Path) -> None:
    broken = plan("broken", "import sys; print('no such model'); sys.exit(1)", tmp_path)

    with pytest.raises(OperationError, match=r"broken ended while starting \(status 1\): no such model"):
        async with up(tmp_path, [plan("a", FOREVER, tmp_path), broken]):
            pass
    assert not (tmp_path / "state" / "processes.json").exists()


async def test_a_model_that_fails_to_load_after_the_others_started_stops_them_and_is_never_up(
    tmp_path: Path,
) -> None:
    code = "import sys, time; time.sleep(1.5); print('weights are damaged', flush=True); sys.exit(1)"
    model = plan("model", code, tmp_path, ready="model", health_url="http://127.0.0.1:9/health")
    told: list[str] = []

    with pytest.raises(OperationError, match=r"model ended while starting \(status 1\): weights are damaged"):
        await supervisor(tmp_path, [model, plan("a", FOREVER, tmp_path)]).run(lambda: told.append("up"))

    assert (tmp_path / "order").read_text() == "+model +a "
    assert told == []


async def test_nothing_is_up_before_its_model_is_loaded_and_a_killed_load_is_tried_again(
    tmp_path: Path,
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = (
        "import http.server, os, signal, time\n"
        f"if open({str(tmp_path / 'order')!r}).read().count('model') == 1:\n"
        "    time.sleep(0.6); os.kill(os.getpid(), signal.SIGKILL)\n"
        "class Ok(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(200); self.end_headers()\n"
        f"http.server.HTTPServer(('127.0.0.1', {port}), Ok).serve_forever()"
    )
    model = plan("model", code, tmp_path, ready="model", health_url=f"http://127.0.0.1:{port}/health")

    async with up(tmp_path, [model]):
        assert processes(tmp_path).processes[0].restarts == 1
        assert socket.create_connection(("127.0.0.1", port)).close() is None


async def test_a_supervisor_killed_by_sigkill_takes_its_processes_along(tmp_path: Path) -> None:
    script = (
        "import asyncio, pathlib, sys\n"
        "from gateway.supervisor.plan import ProcessPlan\n"
        "from gateway.supervisor.supervisor import Supervisor\n"
        f"tmp = pathlib.Path({str(tmp_path)!r})\n(tmp / 'state').mkdir()\n"
        f"plan = ProcessPlan(name='a', argv=[sys.executable, '-c', {FOREVER!r}])\n"
        "s = Supervisor([plan], state=tmp / 'state', logs=tmp / 'logs', listener=None, echo=False)\n"
        "asyncio.run(s.run(lambda: print('ready', flush=True)))\n"
    )
    outer = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    assert outer.stdout is not None
    assert await asyncio.wait_for(outer.stdout.readline(), 20) == b"ready\n"
    pid = processes(tmp_path).processes[0].pid
    assert pid is not None

    outer.kill()
    await outer.wait()

    await until(lambda: not running(pid))


@pytest.mark.parametrize("section", ["listen", "admin_listen"])
def test_a_busy_port_is_one_line_that_names_it_and_the_setting(tmp_path: Path, section: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        path = tmp_path / "tracetune.yaml"
        path.write_text(
            f"{section}: {{port: {port}}}\nupstreams: [{{name: a, base_url: http://127.0.0.1:1/v1}}]\n"
            "routes: [{model: m, variants: [{name: s, upstream: a, model: x}]}]\n"
        )

        with pytest.raises(OperationError, match=rf"port {port} on 127.0.0.1 is in use; .*{section}.port"):
            supervise(path, lambda *_: [], echo=False, announce="")


def test_what_captures_starts_before_what_serves_and_stops_after_it() -> None:
    config_path = Path(__file__).resolve().parents[2] / "config" / "demo.yaml"
    names = [entry.name for entry in plan_up(load_config(config_path), config_path)]

    assert names == ["store", "shipper", "recorder", "inference-local", "gateway-0", "judges", "learner"]
