import judges
from my_judges import good

ANSWER = "Your parcel left our warehouse today and arrives on Friday, before noon."


def test_an_empty_answer_is_wrong():
    assert good(judges.trace_from(answer="  ")) is False


def test_an_answer_sent_nearly_as_it_was_is_right():
    assert good(judges.trace_from(answer=ANSWER, kept=ANSWER + " Best,")) is True


def test_an_answer_that_was_written_anew_is_wrong():
    assert good(judges.trace_from(answer=ANSWER, kept="Sorry, we lost it.")) is False


def test_what_people_said_decides():
    assert good(judges.trace_from(answer=ANSWER, feedback=[judges.said("outcome", "accepted")])) is True
    assert good(judges.trace_from(answer=ANSWER, feedback=[judges.said("outcome", "rejected")])) is False
    assert good(judges.trace_from(answer=ANSWER, feedback=[judges.said("rating", 0.2)])) is False


def test_while_nobody_said_anything_it_is_a_weak_yes():
    assert good(judges.trace_from(answer=ANSWER)) is True
    assert good(judges.trace_from(answer="As an AI, I cannot help.")) is False
