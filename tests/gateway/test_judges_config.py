"""Judges that ask a model, as the configuration has them: what fits together, and where text may go."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.load import parse_config
from gateway.errors import ConfigError

ROOT = """\
upstreams:
  - {name: open, base_url: "http://127.0.0.1:1/v1", default: true}
  - {name: ours, base_url: "http://127.0.0.1:2/v1", trusted: true}
routes:
  - {model: public, variants: [{name: stable, upstream: open, model: m}]}
  - {model: secret, private: true, variants: [{name: stable, upstream: ours, model: m}]}
judges:
"""
LLM = "kind: llm, rubric: r.yaml"


def judges(*entries: str) -> str:
    return ROOT + "".join(f"  - {{name: j{number}, {entry}}}\n" for number, entry in enumerate(entries))


@pytest.mark.parametrize(
    "entry",
    [
        f"{LLM}, upstream: open, model: m",
        f"{LLM}, upstream: open, model: m, routes: [public, secret]",
        "kind: pairwise, rubric: r.yaml, upstream: open, model: m",
        "kind: embedding, upstream: open, model: m",
        "kind: jury, rubric: r.yaml, members: [{upstream: ours, model: a}, {upstream: open, model: b}]",
    ],
    ids=["all routes", "named", "pairwise", "embedding", "jury"],
)
def test_a_judge_that_would_show_private_text_to_an_untrusted_upstream_is_refused(
    tmp_path: Path, entry: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_config(judges("path: 'a.py:f'", entry), "c.yaml", tmp_path)

    line = str(refused.value)
    assert line.startswith("c.yaml: route 'secret' is private")
    assert "upstream 'open', which is not trusted" in line
    assert "give the judge other routes, or mark that upstream trusted: true - at `$.judges[1]`" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "entry",
    [
        f"{LLM}, upstream: open, model: m, routes: [public]",
        f"{LLM}, upstream: ours, model: m",
        "path: 'a.py:f'",
        "path: 'builtin:exact'",
        "kind: embedding, upstream: ours, model: m, threshold: 0.8",
    ],
    ids=["public", "trusted", "python", "builtin", "embedding"],
)
def test_all_others_load(tmp_path: Path, entry: str) -> None:
    assert parse_config(judges(entry), "c.yaml", tmp_path).judges[0].name == "j0"


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("kind: embedding, upstream: ours", "needs upstream and model"),
        ("kind: embedding, upstream: ours, model: m, rubric: r.yaml", "no rubric is read"),
        ("kind: embedding, upstream: ours, model: m, threshold: 2", "$.judges[0].threshold"),
        ("kind: embedding, upstream: ours, model: m, of: session", "pairs are of answers"),
        (f"{LLM}, upstream: ours, model: m, threshold: 0.5", "threshold is embedding's"),
        ("path: 'a.py:f', threshold: 0.5", "threshold are of LLM judges"),
        ("kind: llm, upstream: ours, model: m", "needs a rubric file"),
    ],
    ids=["model", "rubric", "range", "session", "llm", "python", "no rubric"],
)
def test_fields_of_another_kind_are_refused(tmp_path: Path, entry: str, why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_config(judges(entry), "c.yaml", tmp_path)

    assert why in str(refused.value)


def test_what_a_judge_is_made_of_is_said_and_watched(tmp_path: Path) -> None:
    text = judges(
        "path: 'a.py:f'",
        "path: 'builtin:exact'",
        f"{LLM}, upstream: ours, model: m",
        "kind: jury, rubric: r.yaml, members: [{upstream: ours, model: a}, {upstream: ours, model: b}]",
        "kind: embedding, upstream: ours, model: e",
    )
    found = parse_config(text, "c.yaml", tmp_path).judges

    assert [judge.made_of for judge in found] == [
        "a.py:f",
        "builtin:exact",
        "r.yaml by m of ours",
        "r.yaml by a of ours, b of ours",
        "embedding by e of ours",
    ]
    assert [judge.watched for judge in found] == [
        tmp_path / "a.py",
        None,
        tmp_path / "r.yaml",
        tmp_path / "r.yaml",
        None,
    ]
