"""Learns from judged traces. Each stage is a function with frozen inputs and outputs on disk.

Importing this package imports no torch: the stages that need it run in processes of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from learner.dataset import build_dataset
    from learner.learn import evaluate, run_learning, train
    from learner.registry import register

__all__ = ["build_dataset", "evaluate", "register", "run_learning", "train"]

_WHERE = {
    "build_dataset": "learner.dataset",
    "evaluate": "learner.learn",
    "register": "learner.registry",
    "run_learning": "learner.learn",
    "train": "learner.learn",
}


def __getattr__(name: str) -> Any:
    """Load a stage when it is asked for, so that `learner.errors` and the commands stay light."""
    if name not in _WHERE:
        raise AttributeError(f"module 'learner' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_WHERE[name]), name)
