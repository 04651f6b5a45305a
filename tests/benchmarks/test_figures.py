from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from benchmarks.contenders import STARTS
from benchmarks.figures import Figure, added_ms, cpu_ratios, figures
from benchmarks.machine import Machine
from benchmarks.report import Result, encoded, table, write
from benchmarks.types import Cores, Load, Memory, Missing, Parameters, Times, Turn


def turn(
    contender: str, load: Load, number: int, cpu_us: float | None, p50: float = 1, p99: float = 2
) -> Turn:
    times = Times(answers=1000, errors=0, seconds=2, p50_ms=p50, p99_ms=p99)
    return Turn(contender=contender, load=load, round=number, times=times, cpu_us=cpu_us)


def every_turn(round_count: int = 3) -> list[Turn]:
    cpu = {
        "direct": None,
        "nginx": 15,
        "vllm-router": 75,
        "ours": 75,
        "ours, capture none": 70,
        "ours, two workers": 80,
        "portkey": 2800,
        "litellm": 9400,
    }
    loads: tuple[Load, ...] = ("buffered", "streamed", "open loop", "first token")
    return [
        turn(name, load, number, cpu[name])
        for number in range(round_count)
        for load in loads
        for name in STARTS
    ]


MEMORY = Memory(
    streams=2000,
    streams_errors=0,
    streams_bytes=200_000_000,
    idle_bytes=50_000_000,
    requests=[(50_000, 60_000_000), (500_000, 60_600_000)],
    request_errors=0,
)


def result(turns: list[Turn], memory: Memory | None, missing: list[Missing]) -> Result:
    return Result(
        name="test",
        commit="0" * 40,
        began_at="2026-01-01T00:00:00+00:00",
        ended_at="2026-01-01T00:10:00+00:00",
        machine=Machine(
            cpu="x",
            cores=2,
            memory_gib=1,
            kernel="6",
            python="3.11",
            compiler="GCC",
            loop_ns=15,
            load_average=[0, 0, 0],
        ),
        cores=Cores(workers=[0], load=1, beside=[1]),
        versions={"nginx": "1.22"},
        parameters=Parameters(),
        load_first=True,
        open_rate=100.0,
        turns=turns,
        memory=memory,
        missing=missing,
    )


def test_a_ratio_compares_turns_of_one_round_and_skips_rounds_that_lack_one() -> None:
    turns = [
        turn("ours", "buffered", 0, 100),
        turn("nginx", "buffered", 0, 20),
        turn("ours", "buffered", 1, 90),
        turn("nginx", "buffered", 2, 30),
        turn("nginx", "streamed", 1, 1),
        turn("ours", "buffered", 3, 60),
        turn("nginx", "buffered", 3, 30),
    ]

    assert cpu_ratios(turns, "buffered", "ours", "nginx") == [5, 2]


def test_added_latency_is_the_difference_to_direct_in_the_same_round() -> None:
    turns = [
        turn("direct", "open loop", 0, None, 1, 2),
        turn("ours", "open loop", 0, 80, 1.25, 3),
        turn("direct", "open loop", 1, None, 5, 9),
        turn("ours", "open loop", 1, 80, 5.5, 8),
    ]

    assert added_ms(turns, "open loop", 50) == [0.25, 0.5]
    assert added_ms(turns, "open loop", 99) == [1, -1]


@pytest.mark.parametrize(
    ("at_least", "value", "reached"),
    [(False, 1.2, True), (False, 1.21, False), (True, 1.2, True), (True, 1.19, False)],
)
def test_a_bound_is_reached_at_the_bound_itself(at_least: bool, value: float, reached: bool) -> None:
    figure = Figure(name="f", unit="", at_least=at_least, bound=1.2, rounds=[value])

    assert figure.reached is reached


def test_the_median_of_the_rounds_decides_so_that_one_bad_round_does_not() -> None:
    figure = Figure(name="f", unit="", at_least=False, bound=1.2, rounds=[9.0, 1.0, 1.1])

    assert figure.value == 1.1
    assert figure.reached


def test_every_row_of_the_speed_table_is_there_and_good_turns_reach_them_all() -> None:
    found = figures(every_turn(), MEMORY)

    assert [figure.reached for figure in found] == [True] * 12
    assert [figure.bound for figure in found] == [1.2, 1.5, 100, 30, 6, 1.25, 1.1, 0.3, 2.0, 5.0, 400, 0.02]


def test_what_was_not_measured_is_neither_reached_nor_missed_and_says_why() -> None:
    found = {figure.name: figure for figure in figures([turn("ours", "buffered", 0, 75)], None)}

    assert all(figure.value is None and figure.reached is None for figure in found.values())
    assert found["CPU, buffered: litellm / ours"].why_missing == "no figures of litellm"
    assert found["memory with many streams"].why_missing == "memory was not measured"


def test_memory_that_grows_is_a_slope_and_a_little_is_not() -> None:
    grown = msgspec.structs.replace(MEMORY, requests=[(50_000, 60_000_000), (500_000, 66_000_000)])

    assert [figures([], memory)[-1].reached for memory in (MEMORY, grown)] == [True, False]


def test_the_table_names_every_contender_figure_and_missing_part_with_its_reason() -> None:
    turns = [entry for entry in every_turn() if entry.contender != "portkey"]
    missing = [Missing(what="portkey, buffered", why="npm is not on this machine")]
    text = table(list(STARTS), result(turns, MEMORY, missing))
    lines = text.splitlines()

    for name in STARTS:
        assert any(line.startswith(f"{name}  ") for line in lines), name
    for figure in figures(turns, MEMORY):
        assert any(line.startswith(figure.name) for line in lines), figure.name
    assert "missing: portkey, buffered: npm is not on this machine" in lines
    assert next(line for line in lines if line.startswith("CPU, buffered: portkey")).endswith(
        "missing: no figures of portkey"
    )


def test_a_table_without_any_turn_is_still_a_table() -> None:
    assert "missing" in table(list(STARTS), result([], None, []))


def test_the_json_holds_every_raw_turn_and_each_figure_with_its_verdict(tmp_path) -> None:
    turns = every_turn()
    path = write(result(turns, MEMORY, []), tmp_path / "results")
    content: dict[str, Any] = json.loads(path.read_bytes())

    assert path.name == "test.json"
    assert msgspec.convert(content["turns"], list[Turn]) == turns
    assert content["parameters"]["quick"] is False
    assert content["figures"][0] == {
        "name": "CPU, buffered: ours / vllm-router",
        "unit": "",
        "at_least": False,
        "bound": 1.2,
        "aim": 1.0,
        "rounds": [1.0, 1.0, 1.0],
        "why_missing": None,
        "value": 1.0,
        "reached": True,
    }
    assert not list(path.parent.glob("*.tmp"))


def test_what_is_written_reads_as_what_was_measured() -> None:
    whole = result(every_turn(), MEMORY, [Missing(what="a", why="b")])
    content = json.loads(encoded(whole))
    del content["figures"]

    assert msgspec.convert(content, Result) == whole
