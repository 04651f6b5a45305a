"""`POST /api/feedback`: what a person or the app said afterwards, taken at once, stored with the traces."""

from __future__ import annotations

import os
import time

from litestar import post

from gateway.control.access import client_of, requires
from gateway.control.bodies import FeedbackBody, FeedbackTaken
from gateway.control.plane import ControlPlane
from gateway.control.rollout_api import ApiRequest
from gateway.data_plane.errors import overloaded
from gateway.data_plane.ids import uuid7
from gateway.traces.types import CapturedFeedback, cut_key

_RANDOM_BYTES = 8


@post(
    "/api/feedback",
    guards=[requires("feedback")],
    status_code=202,
    summary="Say what became of an answer",
    tags=["feedback"],
)
async def give_feedback(plane: ControlPlane, request: ApiRequest, data: FeedbackBody) -> FeedbackTaken:
    """Taken at once, before the trace has reached the store.

    Feedback on another client's trace is kept with its own `client`, and neither trains nor gates.
    """
    now_ns = time.time_ns()
    feedback_id = uuid7(now_ns, os.urandom(_RANDOM_BYTES))
    writer = plane.state.writer
    for row in rows_of(data, client_of(request).name, feedback_id, now_ns // 1000):
        if not writer.append(row):
            raise overloaded(
                "Feedback could not be kept: the capture memory is full (capture.memory_bytes raises it)."
            )
    return FeedbackTaken(feedback_id=feedback_id)


def rows_of(body: FeedbackBody, client: str, feedback_id: str, at_us: int) -> list[CapturedFeedback]:
    """One row for each thing that *body* says."""
    return [
        CapturedFeedback(
            feedback_id=feedback_id if index == 0 else f"{feedback_id}-{index + 1}",
            trace_id=str(body.trace_id) if body.trace_id is not None else None,
            # Cut as the session header of a request is, so that the two meet.
            session=body.session and cut_key(body.session),
            client=client,
            kind=said.kind,
            value=said.value,
            text=said.text,
            created_at_us=at_us,
        )
        for index, said in enumerate(body.statements())
    ]
