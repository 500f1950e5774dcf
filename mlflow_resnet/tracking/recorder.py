"""Where the pieces of a run's record go: to the tracking server at once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from mlflow_resnet.io.notes import Notes
from mlflow_resnet.tracking.pieces import Piece, parse_piece


class Recorder:
    """Delivers each piece at once. `ids` are those of the run and what belongs to it."""

    def __init__(self, ids: Notes) -> None:
        self.ids = ids

    def put(self, piece: Piece, write: Callable[[Path], object] | None = None) -> None:
        """Records a piece, as it would come back from a disk; `write` puts its files into an empty folder."""
        with tempfile.TemporaryDirectory() as folder:
            if write:
                write(Path(folder))
            parse_piece(piece.to_json()).send(MlflowClient(), Path(folder), self.ids)


def make_recorder(run: Run) -> Recorder:
    """Returns a recorder that writes to a run of this process."""
    return Recorder(Notes(run_id=run.info.run_id))
