"""Servers, outputs and work that came to no good end."""

from __future__ import annotations

from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from mlflow_resnet.errors.base import MlflowResnetError, PathError


class ServerUnreachableError(MlflowResnetError):
    """The tracking server or the model registry does not answer."""

    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(
            f"MLflow at {uri} does not answer ({reason}). Start it, or set MLFLOW_TRACKING_URI / MLFLOW_REGISTRY_URI."
        )


class ServerRefusesError(MlflowResnetError):
    """The tracking server or the model registry answers, but not as it should: it wants a login, or to be migrated."""

    def __init__(self, uri: str, answer: str) -> None:
        super().__init__(f"MLflow at {uri} answers with: {answer}")


class ScoringServerError(MlflowResnetError):
    """A server that scores images does not answer, or refuses to."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(f"{url}: {problem}")


class ServerBusyError(MlflowResnetError):
    """A request over HTTP cannot be answered in time."""

    status = TEMPORARILY_UNAVAILABLE


class RefusedBodyError(MlflowResnetError):
    """The body of a request is not taken in. Says why, and repeats nothing of it."""

    def __init__(self, message: str, http_status: int = 400) -> None:
        self.http_status = http_status
        super().__init__(message)

    def get_http_status_code(self) -> int:
        return self.http_status


class OutputError(PathError):
    """An output path cannot be written."""


class NotSentError(OutputError):
    """An output is finished, but S3 does not take it, so it stays on this machine."""

    is_passing = True


class CheckpointError(PathError):
    """A training cannot go on from what is at `path`."""


class NotDeliveredError(PathError):
    """The record of a training waits at `path`, because the tracking server did not take all of it."""

    exit_code = 4


class MissingPackageError(MlflowResnetError):
    """A command needs a package that only an extra installs."""

    def __init__(self, verb: str, requirement: str) -> None:
        super().__init__(f"{verb} needs a package that is not installed; install it: pip install '{requirement}'")


class SweepError(MlflowResnetError):
    """A sweep cannot begin, or has no result."""


class OutOfMemoryError(MlflowResnetError):
    """A batch of `images` does not fit into the memory of `device` and cannot be divided further."""

    def __init__(self, images: int, device: str) -> None:
        super().__init__(
            f"out of memory: {images} images at a time are too many for {device}. "
            "Lower --crop-size or --batch-size, raise --accumulation-steps, or choose a smaller --architecture."
        )


class ProcessEndedError(MlflowResnetError):
    """`which` of several processes that train together ended early, and `how`."""

    def __init__(self, which: str, how: str) -> None:
        remedy = ". If memory ran out, lower --batch-size or --processes" if how.endswith("SIGKILL") else ""
        super().__init__(f"{which} {how}, so the training ended{remedy}.")


class AuditFailedError(MlflowResnetError):
    """An audit found what it was told to fail on."""


class PromotionRefusedError(MlflowResnetError):
    """The candidate does not meet the bar; the alias stays where it was."""

    exit_code = 3


class TrainingDivergedError(MlflowResnetError):
    """The training loss, a weight or what the network predicts became NaN or infinite."""

    exit_code = 5
    advice = "Try a lower --learning-rate or some --warmup-epochs."

    def __init__(self, what: str, epoch: int, iteration: int, learning_rate: float) -> None:
        super().__init__(
            f"{what} in epoch {epoch}, iteration {iteration}, at learning rate {learning_rate:g}. Nothing was "
            f"registered. {self.advice}"
        )


class PredictionsDivergedError(TrainingDivergedError):
    """Training went well, but what the network predicts for the validation images is not finite."""

    advice = (
        "The statistics of batch normalization cannot be used, as with few images or small pictures: give more images, "
        "a larger --crop-size or --batch-size, or a lower --learning-rate."
    )
