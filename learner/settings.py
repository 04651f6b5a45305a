"""What a route's learner section comes to: defaults by `effort`, and the plan that a training script gets."""

from __future__ import annotations

import msgspec

from gateway.config import Config, LearnerConfig
from gateway.errors import ConfigError, UsageError
from learner.types import Recipe

CHECKPOINT_STEPS = 10  # a killed run repeats at most this many
MIN_EXAMPLES = 8  # below this there is nothing to average a gradient over
MIN_HOLDOUT = 8  # below this no interval says anything

# LoRA wants about ten times the learning rate of full training. One pass over a few hundred rows is enough to
# learn a format; more passes help where winners are few, and cost as much again.
_EPOCHS = {"quick": 1.0, "balanced": 1.0, "max": 3.0}
_RANK = {"quick": 16, "balanced": 16, "max": 32}
_LEARNING_RATE = 1e-3
# Few rows need updates more than they need smooth gradients; many rows can afford both.
_BATCH_SIZES = (16, 8, 4)
_UPDATES_AN_EPOCH = 100
_MAX_TOKENS = 1024


def learner_of(config: Config, route: str) -> LearnerConfig:
    """The learner section of *route*. Raises UsageError for an unknown route, ConfigError if it has none."""
    for entry in config.learner:
        if entry.route == route:
            return entry
    known = ", ".join(entry.route for entry in config.learner) or "none"
    if config.route(route) is None:
        raise UsageError(f"no route {route!r}; routes that learn: {known}")
    raise ConfigError(f"route {route!r} has no learner section; routes that learn: {known} - at `$.learner`")


def only_route(config: Config, route: str | None) -> str:
    """*route*, or the only one that learns. Raises UsageError when it has to be named and is not."""
    if route is not None:
        return learner_of(config, route).route
    if len(config.learner) == 1:
        return config.learner[0].route
    known = ", ".join(entry.route for entry in config.learner)
    raise UsageError(
        f"name a route with --route: {known}" if known else "no route learns; add a learner section"
    )


def recipe_of(entry: LearnerConfig, examples: int) -> Recipe:
    """The recipe of a learner section for so many rows: what an expert set, else what its effort means."""
    train = entry.train
    rank = lora_rank(entry)
    return Recipe(
        method="sft",
        epochs=train.epochs or _EPOCHS[entry.effort],
        learning_rate=train.learning_rate or _LEARNING_RATE,
        batch_size=train.batch_size or _batch_size(examples),
        lora_rank=rank,
        lora_alpha=2 * rank,
        max_tokens=train.max_tokens or _MAX_TOKENS,
        seed=train.seed,
        threads=train.threads,
    )


def _batch_size(examples: int) -> int:
    """The largest that still gives _UPDATES_AN_EPOCH, else the smallest."""
    enough = (size for size in _BATCH_SIZES if examples >= size * _UPDATES_AN_EPOCH)
    return next(enough, _BATCH_SIZES[-1])


def lora_rank(entry: LearnerConfig) -> int:
    """The rank of the adapters that a learner section comes to."""
    return entry.train.lora_rank or _RANK[entry.effort]


def frozen(entry: LearnerConfig) -> str:
    """The section as JSON text with sorted keys: equal text, same meaning."""
    return msgspec.json.encode(entry, order="sorted", enc_hook=str).decode()
