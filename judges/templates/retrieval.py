"""Judges answers from documents: its numbers, quotations and citations stand in what was given."""

import re

import judges

CITATION = re.compile(r"\[(\w{1,20})\]")  # [1], [doc7]
QUOTATION = re.compile(r"[\"“]([^\"“”]{8,})[\"”]")  # shorter ones are names or irony
NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")


def plain(text):
    return " ".join(text.lower().split())


def good(trace):
    messages = (trace.request or {}).get("messages") or []
    given = plain(" ".join(judges.text_of(message.get("content")) for message in messages))
    answer = plain(trace.answer)
    if not answer or len(answer) > len(given) > 0:
        return False
    if answer in given and len(answer) > len(given) / 2:
        return False  # it only repeats what it was given
    cited, quoted = CITATION.findall(answer), QUOTATION.findall(answer)
    numbers = NUMBER.findall(CITATION.sub("", answer))
    if not given or not (cited or quoted or numbers):
        return judges.abstain("no number, quotation or citation to look up")
    known = set(NUMBER.findall(given))
    return (
        all(f"[{name}]" in given for name in cited)
        and all(text in given for text in quoted)
        and all(number in known for number in numbers)
    )
