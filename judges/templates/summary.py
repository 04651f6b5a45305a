"""Judges summaries: much shorter than the text, in its words, and no number or name that is not in it."""

import re

import judges

LONGEST_SHARE = 0.5  # of the text's words
OWN_WORDS = 0.5  # share of the summary's longer words that the text must have
NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
NAME = re.compile(r"(?<=[\w,;] )[A-Z]\w+")  # a capital inside a sentence; for German, take this check out
LONGER_WORD = re.compile(r"\w{5,}")


def good(trace):
    text, summary = trace.prompt, trace.answer
    if not summary.strip():
        return False
    if not text.strip():
        return judges.abstain("no text to compare with")
    if len(summary.split()) > LONGEST_SHARE * len(text.split()):
        return False
    if set(NUMBER.findall(summary)) - set(NUMBER.findall(text)):
        return False
    known = set(re.findall(r"\w+", text.lower()))
    if any(name.lower() not in known for name in NAME.findall(summary)):
        return False
    words = LONGER_WORD.findall(summary.lower())
    return sum(word in known for word in words) >= OWN_WORDS * max(len(words), 1)
