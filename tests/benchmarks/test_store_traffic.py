from __future__ import annotations

import json

from benchmarks.store_traffic import prose, templates


def test_a_conversation_brings_along_what_was_said_before_in_it() -> None:
    made = list(templates(200, [f"Paragraph {n} of the prose." for n in range(50)]))
    answers: dict[int, list[str]] = {}

    assert [template.n for template in made] == list(range(200))
    for template in made:
        said = [message["content"] for message in json.loads(template.request)["messages"]]
        assert said[2::2] == answers.get(template.session, [])
        assert len(said) == 2 * template.turn + 2
        answer = json.loads(template.response)["choices"][0]["message"]["content"]
        answers.setdefault(template.session, []).append(answer)


def test_the_same_seed_makes_the_same_traces() -> None:
    paragraphs = [f"Paragraph {n}." for n in range(20)]

    assert list(templates(50, paragraphs)) == list(templates(50, paragraphs))


def test_prose_is_no_code_and_each_paragraph_comes_once() -> None:
    found = prose(20_000)

    assert len(found) == len(set(found)) > 20
    assert not any(character in text for text in found for character in "{}<>|=")
