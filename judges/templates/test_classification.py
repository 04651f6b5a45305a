import judges
from my_judges import good


def test_an_explanation_in_place_of_a_label_is_wrong():
    assert good(judges.trace_from(answer="I think that this message is about a refund.")) is False


def test_the_label_that_was_kept_is_right():
    assert good(judges.trace_from(answer="Refund.", kept="refund")) is True


def test_without_feedback_it_abstains():
    assert isinstance(good(judges.trace_from(answer="refund")), judges.Abstain)
