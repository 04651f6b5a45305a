"""Judges: plain functions of a trace that say how good its answer is.

In a judge's file: `import judges` for `judges.abstain("why")`. In its test: `judges.trace_from(answer=…)`,
with `feedback=[judges.said("rating", 0.2)]` where people said something. The rest is
for those who build on us.
"""

from judges.definition import Definition, definition_of
from judges.errors import JudgeError, JudgeFileError, JudgeWorkerError
from judges.evaluate import evaluate_answers
from judges.executor import Executor, executor_of
from judges.load import functions_in
from judges.protocol import Abstain, Verdict, abstain
from judges.trace import JudgedTrace, judged_trace, said, text_of, trace_from

__all__ = [
    "Abstain",
    "Definition",
    "Executor",
    "JudgeError",
    "JudgeFileError",
    "JudgeWorkerError",
    "JudgedTrace",
    "Verdict",
    "abstain",
    "definition_of",
    "evaluate_answers",
    "executor_of",
    "functions_in",
    "judged_trace",
    "said",
    "text_of",
    "trace_from",
]
