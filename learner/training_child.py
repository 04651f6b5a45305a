"""A learning run as a process of its own, so that the learner itself never holds a model or waits for one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from learner.errors import LearnerError

STOP_WITHIN_S = 4.0  # a stopped run loses nothing but the steps since its last checkpoint
MAX_REASON_CHARS = 500


class TrainingChild:
    """One started run of one route."""

    def __init__(self, route: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.route = route
        self._process = process
        self._log = log

    @classmethod
    def start(cls, config_path: Path, route: str, log: Path) -> TrainingChild:
        """Start `python -m learner.run_process`; what it says goes to *log*. Raises LearnerError."""
        argv = [sys.executable, "-m", "learner.run_process", "--config", str(config_path), "--route", route]
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("wb") as output:
                process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        except OSError as error:
            raise LearnerError(f"a learning run of {route!r} could not be started: {error}") from error
        return cls(route, process, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        return self._process.poll()

    def last_words(self) -> str:
        """The last line that it wrote: the reason, where it failed or was refused."""
        try:
            lines = self._log.read_text(errors="replace").strip().splitlines()
        except OSError as error:
            return f"its log cannot be read: {error}"
        return lines[-1][:MAX_REASON_CHARS] if lines else f"ended with code {self.poll()} and no word"

    def stop(self) -> None:
        """Ask it to end at its last checkpoint, and insist."""
        if self.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
