"""Judges extraction: is the answer the JSON the app needs, and what the user kept in the end?"""

import json

import judges

REQUIRED_FIELDS: tuple[str, ...] = ()  # the fields your app reads, for example ("name", "email")


def fields(text):
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def good(trace):
    answer = fields(trace.answer)
    if answer is None or any(field not in answer for field in REQUIRED_FIELDS):
        return False
    if trace.kept is None:
        return True if REQUIRED_FIELDS else judges.abstain("no fields to check and nobody said what was kept")
    return answer == fields(trace.kept)
