import judges
from my_judges import good


def test_an_empty_answer_is_wrong():
    assert good(judges.trace_from(answer="  ")) is False


def test_an_answer_sent_nearly_as_it_was_is_right():
    answer = "Your parcel left our warehouse today and arrives on Friday."
    assert good(judges.trace_from(answer=answer, kept=answer + " Best")) is True


def test_an_answer_that_was_written_anew_is_wrong():
    assert good(judges.trace_from(answer="It arrives on Friday.", kept="Sorry, we lost it.")) is False
