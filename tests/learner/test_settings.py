from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gateway.config.types import LearnerConfig, TrainOptions
from gateway.errors import ConfigError, UsageError
from learner.settings import learner_of, only_route, recipe_of
from tests.learner.traffic import ROUTE, a_config

ENTRY = LearnerConfig(route="r", base_model=Path("base"), serve_on="up", judge="j")


def test_few_rows_get_many_updates_and_many_rows_larger_batches() -> None:
    sizes = [recipe_of(ENTRY, rows).batch_size for rows in (8, 360, 800, 1600, 20_000)]
    assert sizes == [4, 4, 8, 16, 16]


def test_what_an_expert_sets_is_what_is_done() -> None:
    train = TrainOptions(
        epochs=0.5, learning_rate=2e-4, batch_size=3, lora_rank=64, max_tokens=99, seed=1, threads=2
    )
    recipe = recipe_of(msgspec.structs.replace(ENTRY, train=train), 5000)
    assert msgspec.to_builtins(recipe) == {
        "method": "sft",
        "epochs": 0.5,
        "learning_rate": 2e-4,
        "batch_size": 3,
        "lora_rank": 64,
        "lora_alpha": 128,
        "max_tokens": 99,
        "seed": 1,
        "threads": 2,
    }


def test_more_effort_is_more_passes_never_fewer() -> None:
    efforts = [
        recipe_of(msgspec.structs.replace(ENTRY, effort=effort), 400)
        for effort in ("quick", "balanced", "max")
    ]
    assert [recipe.epochs for recipe in efforts] == sorted(recipe.epochs for recipe in efforts)


def test_a_single_learning_route_need_not_be_named_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    config = a_config(tmp_path)
    assert only_route(config, None) == ROUTE
    with pytest.raises(UsageError, match=f"routes that learn: {ROUTE}"):
        learner_of(config, "suport-bot")
    without = msgspec.structs.replace(config, learner=[])
    with pytest.raises(ConfigError, match="has no learner section"):
        learner_of(without, ROUTE)
    with pytest.raises(UsageError, match="add a learner section"):
        only_route(without, None)
