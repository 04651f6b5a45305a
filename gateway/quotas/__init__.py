"""Limits of client keys on requests, tokens and USD per period, counted by all workers together.

reserve before the first attempt ──▶ settle when the trace finishes
                └── one file of counters in shared memory ──▶ reports, saved to the state directory
"""

from gateway.quotas.estimate import Estimate, estimate_tokens, estimate_usd
from gateway.quotas.keeper import keep, save_last
from gateway.quotas.ledger import Ledger, Reservation
from gateway.quotas.report import KeyReport, Standing, WindowReport, report_limits
from gateway.quotas.rules import Account, Refusal, Rule
from gateway.quotas.saving import QuotaFiles, save_left_behind

__all__ = [
    "Account",
    "Estimate",
    "KeyReport",
    "Ledger",
    "QuotaFiles",
    "Refusal",
    "Reservation",
    "Rule",
    "Standing",
    "WindowReport",
    "estimate_tokens",
    "estimate_usd",
    "keep",
    "report_limits",
    "save_last",
    "save_left_behind",
]
