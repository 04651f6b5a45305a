"""Two judges of the demo's tickets: one reads the answer alone, one compares it with what the agent kept."""

import json

import judges

FIELDS = {"intent", "order_id", "date", "priority"}


def valid(trace):
    """JSON with the four fields, and an order id that stands in the customer's message."""
    try:
        ticket = json.loads(trace.answer)
    except ValueError:
        return False
    if not isinstance(ticket, dict) or set(ticket) != FIELDS:
        return False
    return isinstance(ticket["order_id"], str) and ticket["order_id"] in trace.prompt


def kept(trace):
    """The ticket is the one that the agent saved in the end."""
    if trace.kept is None:
        return judges.abstain("nobody said what was kept")
    try:
        return json.loads(trace.answer) == json.loads(trace.kept)
    except ValueError:
        return False
