"""Judges extraction: is the answer the JSON the app needs, and what the user kept in the end?"""

import json

import judges

REQUIRED_FIELDS: tuple[str, ...] = ()  # the fields your app reads, for example ("name", "email")


def good(trace):
    try:
        answer = json.loads(trace.answer)
    except ValueError:
        return False
    if not isinstance(answer, dict) or any(field not in answer for field in REQUIRED_FIELDS):
        return False
    if trace.kept is None:
        return True if REQUIRED_FIELDS else judges.abstain("no fields to check and nobody said what was kept")
    return answer == json.loads(trace.kept)
