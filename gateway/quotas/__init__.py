"""Limits of client keys on requests, tokens and USD per period, counted by all workers together.

reserve before the first attempt ──▶ settle when the trace finishes
                └── one file of counters in shared memory ──▶ reports, saved to the state directory
"""

from gateway.quotas.answers import Refused, limit_headers, refused_answer
from gateway.quotas.estimate import Estimate, estimate_dearest_usd, estimate_tokens, estimate_usd
from gateway.quotas.files import QuotaFiles
from gateway.quotas.keeper import Keeper
from gateway.quotas.ledger import Ledger, Reservation
from gateway.quotas.report import KeyReport, Standing, WindowReport, report_limits
from gateway.quotas.rules import Account, Refusal
from gateway.quotas.saving import save_left_behind

__all__ = [
    "Account",
    "Estimate",
    "Keeper",
    "KeyReport",
    "Ledger",
    "QuotaFiles",
    "Refusal",
    "Refused",
    "Reservation",
    "Standing",
    "WindowReport",
    "estimate_dearest_usd",
    "estimate_tokens",
    "estimate_usd",
    "limit_headers",
    "refused_answer",
    "report_limits",
    "save_left_behind",
]
