"""Records a run through an outbox, so that the training survives an unreachable server."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mlflow.environment_variables import MLFLOW_RUN_ID

from mlflow_resnet.io.notes import Notes
from mlflow_resnet.tracking.conflicts import as_logged
from mlflow_resnet.tracking.outbox import Outbox
from mlflow_resnet.tracking.pieces import GivenRunPiece, MetricsPiece, RunPiece, describe_new_run, now
from mlflow_resnet.tracking.record import LAST_LOGGED, find_logged_epochs
from mlflow_resnet.tracking.run import enter_run, status_after

SECONDS_AT_END = 30.0  # for a server that is away
SECONDS_AFTER_ERROR = 3.0


@contextmanager
def record_through_outbox(outbox: Outbox, name: str, params: Mapping[str, Any], offline: bool) -> Iterator[set[int]]:
    """Records a training in a run through an outbox; `name` is that of a new run. Yields the epochs that its record
    has already.

    The epochs that a run has count only if the notes of this training say that it began this run.

    Raises:
        NotDeliveredError: at the end, if the server has not taken all that was put into the outbox.
    """
    if offline:
        begin_offline(outbox, name, params)
        with note_end(outbox.ids):
            yield find_pending_epochs(outbox)
        return
    begun_in = outbox.ids.get("run_id")
    run_of_training = enter_run(name, params, outbox.ids["record_id"], begun_in)
    with run_of_training as run:
        note_run(outbox.ids, run.info.run_id)
        known = find_pending_epochs(outbox)
        if run.info.run_id == begun_in:
            known |= find_logged_epochs(begun_in)
        with outbox.deliver_meanwhile(SECONDS_AT_END, SECONDS_AFTER_ERROR), note_end(outbox.ids):
            yield known


def begin_offline(outbox: Outbox, name: str, params: Mapping[str, Any]) -> None:
    """The run is found or made when the outbox is delivered, unless this training has begun one already."""
    if outbox.ids.get("run_id") or any(outbox.find(RunPiece)):
        return
    if given := os.environ.get(MLFLOW_RUN_ID.name):
        record_id, logged = outbox.ids["record_id"], as_logged(params)
        outbox.put(GivenRunPiece(**describe_new_run(name), run_id=given, record_id=record_id, params=logged))
    else:
        outbox.put(RunPiece(**describe_new_run(name)))


def note_run(ids: Notes, run_id: str) -> None:
    """Notes the run. Another one than before has nothing yet."""
    if ids.get("run_id") not in (None, run_id):
        ids.note(begun=False, model_id="")
    ids.note(run_id=run_id)


def find_pending_epochs(outbox: Outbox) -> set[int]:
    """The epochs whose metrics wait in the outbox."""
    waiting = outbox.find(MetricsPiece)
    return {point.step for _, piece in waiting for point in piece.points if LAST_LOGGED in point.values}


@contextmanager
def note_end(ids: Notes) -> Iterator[None]:
    """Notes how and when the training ended, for a server that could not be told."""
    try:
        yield
    except BaseException as error:
        ids.note(status=status_after(error), ended=now())
        raise
    ids.note(status="FINISHED", ended=now())
