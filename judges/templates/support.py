"""Judges support answers: people say whether it helped, by accepting, rating, or sending it as it was."""

from difflib import SequenceMatcher

CLOSE_ENOUGH = 0.9  # share of the words that the agent left as they were
WELL_RATED = 0.75
REFUSALS = ("as an ai", "i cannot help", "i can't help", "i'm unable to")


def good(trace):
    answer = trace.answer.strip()
    if not answer or any(refusal in answer.lower() for refusal in REFUSALS):
        return False
    said = {entry.kind: entry for entry in trace.feedback}
    if trace.kept is not None:
        return SequenceMatcher(None, answer.split(), trace.kept.split()).ratio() >= CLOSE_ENOUGH
    if "outcome" in said:  # accepted, edited or rejected
        return said["outcome"].text == "accepted"
    if "rating" in said:
        return said["rating"].value >= WELL_RATED
    return True  # a weak yes: report what was kept (POST /api/feedback) and the verdict gets strong
