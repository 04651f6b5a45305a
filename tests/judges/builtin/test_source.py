from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

import judges
from gateway.config import JudgeConfig, load_config
from gateway.config.load import parse_yaml
from judges import builtin
from judges.builtin import source
from judges.builtin.source import builtin_files, builtin_source
from judges.definition import files_of
from judges.errors import JudgeFileError
from judges.protocol import PARAMETERS, wanted_parameters
from tests.support.judging import ANY_CONFIG

NEEDED: dict[str, dict[str, Any]] = {
    "cost": {"at_most_usd": 1},
    "json_schema": {"schema": {"type": "object"}},
    "latency": {"at_most_ms": 100},
    "length": {"at_most": 10},
    "regex": {"pattern": "x"},
}
NAMES = sorted(builtin.FAMILIES)


def configured(name: str, **options: Any) -> JudgeConfig:
    return JudgeConfig(name="mine", path=f"builtin:{name}", options=options, timeout_s=20)


@pytest.mark.parametrize("name", NAMES)
def test_each_judge_can_be_named_and_called(name: str):
    read = judges.definition_of(configured(name, **NEEDED.get(name, {})))
    function = getattr(builtin, name)
    assert wanted_parameters(function, read.options)
    assert name in builtin.__all__
    options = [
        each for each in inspect.signature(function).parameters.values() if each.name not in PARAMETERS
    ]
    assert all(option.kind is option.KEYWORD_ONLY for option in options)


def test_the_table_names_each_function_of_each_family():
    here = Path(builtin.__file__).parent
    for family in sorted(set(builtin.FAMILIES.values())):
        text = (here / f"{family}.py").read_text()
        judges_in = {
            line.split("(")[0].removeprefix("def ")
            for line in text.splitlines()
            if line.startswith("def ") and not line.startswith("def _")
        }
        named = {name for name, of in builtin.FAMILIES.items() if of == family}
        assert named <= judges_in


def test_what_is_not_there_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = builtin.nothing


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (
            "json_shema",
            {},
            "builtin:json_shema: no judge of that name comes with us; did you mean 'json_schema'?",
        ),
        ("zzz", {}, "there are abandoned, accepted, cost,"),
        ("json_schema", {}, "builtin:json_schema: needs option 'schema'"),
        ("json_schema", {"schem": {}}, "no option 'schem'; did you mean 'schema'?; it takes schema, fence"),
        ("json_schema", {"schema": 3}, "option 'schema': Expected"),
        ("json_schema", {"schema": {"type": "objekt"}}, "option 'schema': not a JSON Schema"),
        ("json_schema", {"schema": {"pattern": "(?=a)"}}, "no look-around"),
        ("regex", {"pattern": "("}, "(no look-around): missing ): ("),
        ("json_schema", {"schema_file": 3}, "is not the path of a file"),
        ("json_schema", {"schema_file": "/nowhere.json"}, "/nowhere.json: cannot be read: No such file"),
        ("json_schema", {"schema_file": "/x", "schema": {}}, "options 'schema' and 'schema_file' are one"),
        ("regex", {"pattern": "("}, "option 'pattern'"),
        ("exact_match", {"against": "tag.x"}, "option 'against' is 'tag.x'"),
        ("length", {"at_most": 0}, "option 'at_most': Expected `float` > 0"),
        ("length", {"at_most": 5, "zero_at": 5}, "option 'zero_at' is not above 'at_most'"),
        ("length", {"at_most": 5, "at_least": 6}, "option 'at_least' is above"),
        ("length", {"at_most": 5, "unit": "lines"}, "option 'unit': Invalid enum value 'lines'"),
        ("latency", {}, "needs option 'at_most_ms' or 'first_token_ms'"),
        ("language", {"expected": "klingon"}, "no language 'klingon'"),
        ("numeric", {"units": {"kg": 0}}, "option 'units'"),
        ("numeric", {"reference": "three"}, "option 'reference' is not a number"),
        ("runs_as_code", {"tests": "assert ("}, "option 'tests' is not Python"),
        ("rating", {"x": 1}, "no option 'x'; it takes none"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_wrong_option_is_one_line_that_names_it(name: str, options: dict[str, Any], said: str):
    with pytest.raises(JudgeFileError) as caught:
        judges.definition_of(configured(name, **options))
    assert said in str(caught.value)
    assert f"builtin:{name}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["{", "\udcff"], ids=["no-json", "no-utf8"])
def test_a_file_that_is_no_json_is_named(tmp_path: Path, text: str):
    file = tmp_path / "s.json"
    file.write_text(text, errors="surrogateescape")
    with pytest.raises(JudgeFileError, match=r"s\.json: not JSON"):
        builtin_source("json_schema", {"schema_file": str(file)})


def test_a_file_lies_beside_the_configuration_and_counts_by_its_content(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "s.json").write_text(json.dumps({"type": "object"}))
    config_path = tmp_path / "tracetune.yaml"
    config_path.write_text(
        "upstreams: [{name: a, base_url: 'http://127.0.0.1:9/v1'}]\n"
        "routes: [{model: r, variants: [{name: v, upstream: a, model: m, weight: 1}]}]\n"
        "judges: [{name: mine, path: 'builtin:json_schema', options: {schema_file: sub/s.json}}]\n"
    )
    (judge,) = load_config(config_path).judges
    assert judge.options == {"schema_file": str(tmp_path / "sub" / "s.json")}
    assert files_of(judge)[1:] == (tmp_path / "sub" / "s.json",)
    first = judges.definition_of(judge)
    assert first.version == builtin_source("json_schema", {"schema": {"type": "object"}}).version
    (tmp_path / "sub" / "s.json").write_text(json.dumps({"type": "array"}))
    assert judges.definition_of(judge).version != first.version


def test_a_file_of_text_is_its_text(tmp_path: Path):
    (tmp_path / "t.py").write_text("assert f(1) == 2\n")
    read = builtin_source("runs_as_code", {"tests_file": str(tmp_path / "t.py")})
    assert read.options == {"tests": "assert f(1) == 2\n"}


def test_judges_of_one_family_have_versions_of_their_own():
    assert builtin_source("accepted", {}).version != builtin_source("rating", {}).version


@pytest.mark.parametrize("changed", ["structure", "schema_rules", "shown"])
def test_a_change_of_the_family_or_of_what_it_imports_is_a_new_version(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    here = Path(builtin.__file__).parent
    for file in here.glob("*.py"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(source, "_HERE", tmp_path)
    source._beside.cache_clear()
    options = {"schema": {"type": "object"}}
    first = builtin_source("json_schema", options).version
    other = builtin_source("rating", {}).version
    with (tmp_path / f"{changed}.py").open("a") as file:
        file.write("# changed\n")
    source._beside.cache_clear()
    assert builtin_source("json_schema", options).version != first
    assert (builtin_source("rating", {}).version != other) is (changed == "shown")
    source._beside.cache_clear()


def test_an_unknown_judge_has_the_files_of_its_options_alone():
    assert builtin_files("nothing", {"x_file": "/a", "y_file": 3, "z": "/b"}) == (Path("/a"),)


@pytest.mark.parametrize("name", NAMES)
def test_each_judge_judges_in_a_process_of_its_own(name: str):
    trace = judges.trace_from(answer="x" * 3, kept="xxx", tokens_out=3, cost_usd=0.1)
    (judgment,) = judges.evaluate_answers(ANY_CONFIG, configured(name, **NEEDED.get(name, {})), [trace])
    assert judgment.version == judges.definition_of(configured(name, **NEEDED.get(name, {}))).version
    assert not judgment.reason.startswith(("raised", "returned", "took"))


def test_a_judge_of_ones_own_may_call_them(write_judge):
    judge = write_judge(
        "from judges.builtin import json_schema, length\n"
        "def good(trace):\n"
        "    return json_schema(trace, schema={'type': 'object'}) and length(trace, at_most=9)\n"
    )
    (judgment,) = judges.evaluate_answers(ANY_CONFIG, judge, [judges.trace_from(answer='{"a": 1}')])
    assert judgment.score == 1.0


def test_the_document_names_each_judge_with_each_option():
    text = (Path(__file__).parents[3] / "docs" / "judges.md").read_text()
    table = text.partition("\n## Built in\n")[2].partition("\n## ")[0]
    rows = {line.split("`")[1]: line for line in table.splitlines() if line.startswith("| `")}
    shared = {"against", "reference"}
    for name in NAMES:
        options = set(inspect.signature(getattr(builtin, name)).parameters) - set(PARAMETERS)
        assert [each for each in sorted(options - shared) if f"`{each}`" not in rows[name]] == []
    (line,) = (line for line in text.splitlines() if line.startswith("  - {name: invoice"))
    (judge,) = parse_yaml(line, list[JudgeConfig], "judges.md")
    assert set(judge.options) == {"schema_file", "fence"}


@pytest.mark.parametrize(("options", "session_idle_s"), [({"idle_s": 700}, 600), ({}, 60)])
def test_a_judge_that_waits_longer_than_its_runner_is_refused(
    options: dict[str, Any], session_idle_s: float
) -> None:
    entry = JudgeConfig(name="j", path="builtin:abandoned", options=options, session_idle_s=session_idle_s)
    with pytest.raises(JudgeFileError, match=r"'idle_s'.*session_idle_s"):
        judges.definition_of(entry)
