from __future__ import annotations

from datetime import date
from itertools import islice

from demo.messages import INTENTS, SEED, messages, truth
from demo.templates import TEMPLATES
from gateway.traces.redaction.redact import Redactor


def test_the_stream_is_the_same_for_the_same_seed_and_never_repeats_a_text() -> None:
    first = list(islice(messages(3), 2000))
    assert first == list(islice(messages(3), 2000))
    assert first != list(islice(messages(4), 2000))
    assert len({message.text for message in first}) == len(first)


def test_at_least_forty_templates_and_a_tenth_of_them_of_every_intent_is_never_trained_on() -> None:
    total = sum(len(bodies) for bodies in TEMPLATES.values())
    drawn = {message.template: message.seen for message in islice(messages(1), 6000)}
    assert total >= 40
    assert set(drawn) == {f"{intent}-{n}" for intent, bodies in TEMPLATES.items() for n in range(len(bodies))}
    unseen = {template for template, seen in drawn.items() if not seen}
    assert len(unseen) * 10 == total
    assert {template.partition("-")[0] for template in unseen} == set(INTENTS)


def test_the_ticket_can_be_read_off_the_message() -> None:
    for message in islice(messages(5), 500):
        assert message.ticket.order_id in message.text
        day = date.fromisoformat(message.ticket.date)
        assert str(day.year) in message.text
        assert str(day.day) in message.text
        assert message.ticket.intent in INTENTS
        assert message.ticket.priority in {"low", "normal", "high"}


def test_a_tenth_of_the_stream_is_unseen_and_the_share_can_be_set() -> None:
    assert 0.07 < sum(not message.seen for message in islice(messages(1), 2000)) / 2000 < 0.13
    assert all(message.seen for message in islice(messages(1, unseen_share=0.0), 300))


def test_redaction_finds_nothing_to_replace_in_the_demo() -> None:
    redactor = Redactor(b"k" * 32)
    for message in islice(messages(SEED), 1000):
        assert redactor.text(message.text, "session") == message.text


def test_the_truth_is_that_of_the_stream() -> None:
    known = truth(SEED, 50)
    assert list(known.values()) == list(islice(messages(SEED), 50))
    assert all(known[text].text == text for text in known)
