"""Judges support answers: an answer at all, no refusal, and close to what the agent sent in the end."""

from difflib import SequenceMatcher

CLOSE_ENOUGH = 0.9  # share of the text that the agent left as it was
REFUSALS = ("as an ai", "i cannot help", "i can't help", "i'm unable to")


def good(trace):
    answer = trace.answer.strip()
    if not answer or any(refusal in answer.lower() for refusal in REFUSALS):
        return False
    if trace.kept is None:
        return True  # a weak yes: report what was kept (POST /api/feedback) and the verdict gets strong
    return SequenceMatcher(None, answer, trace.kept.strip()).ratio() >= CLOSE_ENOUGH
