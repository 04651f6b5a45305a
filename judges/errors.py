"""The error tree of the judges package.

JudgeError(TracetuneError)      exit 1   anything of the judges that a user can cause
├── JudgeFileError      exit 2   the user's file is missing, does not import, or has no such judge
├── JudgeWorkerError    exit 1   the process that runs the user's code cannot be started
└── JudgeUpstreamError  exit 1   an upstream refuses our key, or does not have the model that is to judge

A judge that raises, hangs, crashes or returns nonsense is no error: it is an abstention with that reason.
"""

from __future__ import annotations

from typing import ClassVar

from gateway.errors import TracetuneError


class JudgeError(TracetuneError):
    """Root of the judges' errors. `str(error)` is one line: what was wrong, where, what to do."""


class JudgeFileError(JudgeError):
    """A judge's file cannot be used. The message names the file, the user's own line, the remedy."""

    exit_code: ClassVar[int] = 2


class JudgeWorkerError(JudgeError):
    """The process that runs a judge could not be started or does not answer; the machine is at fault."""


class JudgeUpstreamError(JudgeError):
    """No question to an upstream can be answered until a person does something; the message says what."""
