"""Judges: plain functions of a trace that say how good its answer is.

In a judge's file: `import judges` for `judges.abstain("why")`. In its test: `judges.trace_from(answer=…)`.
"""

from judges.errors import JudgeError, JudgeFileError, JudgeWorkerError
from judges.evaluate import evaluate_answers
from judges.load import JudgeSource, functions_in, read_source
from judges.protocol import Abstain, Verdict, abstain
from judges.sandbox import JudgeSettings, Sandbox
from judges.trace import JudgedTrace, judged_trace, trace_from

__all__ = [
    "Abstain",
    "JudgeError",
    "JudgeFileError",
    "JudgeSettings",
    "JudgeSource",
    "JudgeWorkerError",
    "JudgedTrace",
    "Sandbox",
    "Verdict",
    "abstain",
    "evaluate_answers",
    "functions_in",
    "judged_trace",
    "read_source",
    "trace_from",
]
