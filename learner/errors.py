"""The error tree of the learner package. Exit codes come from gateway.errors.

LearnerError (OperationError)     exit 1   no base model here, a full disk, a damaged snapshot
├── ServingError                  exit 1   an inference server failed, refused an adapter, or answers wrongly
└── LearnerRefusedError           exit 3   a gate said no: too few judged traces, no winners
"""

from __future__ import annotations

from gateway.errors import OperationError, RefusedError


class LearnerError(OperationError):
    """Something a stage of the learner needs is missing, damaged or failed. One line, with the remedy."""


class ServingError(LearnerError):
    """An inference server could not be reached, refused an adapter, or does not answer with it."""


class LearnerRefusedError(LearnerError, RefusedError):
    """A gate of the learner refused; nothing failed."""

    exit_code = RefusedError.exit_code
