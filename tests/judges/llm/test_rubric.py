"""A rubric says what is asked and how answers add up; whatever changes a verdict changes the version."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gateway.config import JudgeConfig, Member
from judges.definition import definition_of
from judges.errors import JudgeFileError
from judges.llm.detail import CriterionDetail
from judges.llm.rubric import parse_rubric
from judges.llm.scores import rubric_score
from tests.support.asking import RUBRIC, a_judge, rubric_file

CONFIGS = Path(__file__).parents[3] / "config"
REQUIRED = """\
task: Answers questions.
criteria:
  - {name: safe, question: "Does it give an address away?", good: no, required: true}
  - {name: short, question: "Is it short?", good: "yes", weight: 1}
  - {name: right, question: "Is it right?", weight: 2}
"""


def score_of(**met: bool | None) -> tuple[float | None, str]:
    rubric = parse_rubric(REQUIRED.encode(), "r.yaml")
    details = [
        CriterionDetail(name=name, answer="unsure" if value is None else "yes", met=value)
        for name, value in met.items()
    ]
    return rubric_score(rubric, details)


def test_good_is_yes_unless_said_otherwise_however_yaml_reads_the_word() -> None:
    rubric = parse_rubric(REQUIRED.encode(), "r.yaml")

    assert [criterion.good_answer for criterion in rubric.criteria] == ["no", "yes", "yes"]


def test_a_score_is_the_weighted_share_of_the_criteria_met() -> None:
    assert score_of(safe=True, short=True, right=True) == (1.0, "")
    assert score_of(safe=True, short=False, right=True) == (0.75, "")
    assert score_of(safe=True, short=True, right=False) == (0.5, "")


def test_a_required_criterion_that_fails_makes_it_zero() -> None:
    assert score_of(safe=False, short=True, right=True) == (0.0, "")


def test_one_criterion_without_an_answer_is_an_abstention_that_names_it_never_a_zero() -> None:
    score, reason = score_of(safe=False, short=None, right=True)

    assert score is None
    assert reason == "no answer to short (unsure)"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (RUBRIC.replace("task:", "tasks:"), "unknown field `tasks`"),
        (RUBRIC.replace("weight: 3", "wieght: 3"), "unknown field `wieght` - at `$.criteria[1]`"),
        (RUBRIC.replace("weight: 3", "weight: 0"), "$.criteria[1].weight"),
        (RUBRIC.replace("weight: 3", "good: maybe"), "$.criteria[1].good"),
        (RUBRIC.replace("weight: 3", "weight: '3'"), "$.criteria[1].weight"),
        (RUBRIC.replace("correct", "polite"), "two criteria are named 'polite'"),
        ("task: t\ncriteria: []\n", "$.criteria"),
        ("task: t\ntask: u\n", "line 2: key 'task' is repeated"),
        ("", "the file is empty"),
    ],
    ids=["field", "inner field", "weight", "good", "type", "name", "none", "twice", "empty"],
)
def test_a_rubric_that_cannot_be_used_is_refused_with_its_file_and_the_place(
    tmp_path: Path, text: str, place: str
) -> None:
    judge = a_judge(tmp_path, rubric_text=text)

    with pytest.raises(JudgeFileError) as refused:
        definition_of(judge)

    assert str(judge.rubric) in str(refused.value)
    assert place in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_rubric_that_is_not_there_is_refused(tmp_path: Path) -> None:
    judge = a_judge(tmp_path)
    (tmp_path / "rubric.yaml").unlink()

    with pytest.raises(JudgeFileError, match="no such file"):
        definition_of(judge)


def test_whatever_changes_a_verdict_changes_the_version_and_nothing_else_does(tmp_path: Path) -> None:
    judge = a_judge(tmp_path)
    jury = msgspec.structs.replace(
        judge, kind="jury", upstream=None, model=None, members=[Member(upstream="a", model="m")] * 2
    )
    others: list[JudgeConfig] = [
        msgspec.structs.replace(judge, model="another"),
        msgspec.structs.replace(judge, upstream="another"),
        msgspec.structs.replace(judge, kind="pairwise"),
        msgspec.structs.replace(judge, kind="pairwise", against="stable"),
        jury,
        msgspec.structs.replace(jury, members=[*jury.members, Member(upstream="b", model="m")]),
        JudgeConfig(name="e", kind="embedding", upstream="judging", model="judge-model"),
        JudgeConfig(name="e", kind="embedding", upstream="judging", model="judge-model", threshold=0.5),
    ]
    first = definition_of(judge)
    versions = [first.version, *(definition_of(other).version for other in others)]
    rubric_file(tmp_path, RUBRIC.replace("polite?", "kind?"))
    versions.append(definition_of(judge).version)
    versions.append(msgspec.structs.replace(first, prompts="another").version)

    assert len(set(versions)) == len(versions)
    rubric_file(tmp_path)
    assert definition_of(msgspec.structs.replace(judge, name="b", timeout_s=1)).version == first.version
    assert len(first.version) == 12


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("rubric*.yaml")), ids=lambda path: path.name)
def test_every_example_of_a_rubric_can_be_used(path: Path) -> None:
    rubric = parse_rubric(path.read_bytes(), str(path))

    assert {criterion.good_answer for criterion in rubric.criteria} == {"yes", "no"}
    assert any(criterion.required for criterion in rubric.criteria)


def test_there_is_an_example_of_a_rubric() -> None:
    assert (CONFIGS / "judges" / "rubric.yaml").is_file()
