"""Judges classification: one of the labels and nothing else, and the label that was kept."""

import judges

LABELS: tuple[str, ...] = ()  # your labels, for example ("refund", "delivery", "other")
LONGEST_LABEL_WORDS = 4


def good(trace):
    label = trace.answer.strip().strip(".").lower()
    if not label or len(label.split()) > LONGEST_LABEL_WORDS:
        return False
    if LABELS and label not in {known.lower() for known in LABELS}:
        return False
    if trace.kept is None:
        return judges.abstain("nobody said which label was right")
    return label == trace.kept.strip().strip(".").lower()
