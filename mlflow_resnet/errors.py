"""Everything a user can get wrong, as one tree. Each class builds its sentence from facts.

MlflowResnetError                    exit 2
├── InvalidOptionsError              an option has a value that cannot work
├── PathError
│   ├── InvalidDatasetError          a directory or archive cannot be used
│   │   ├── NotLabeledDatasetError   no class folders
│   │   ├── BadImagesError           some of its images cannot be read
│   │   ├── ObjectUnreadableError    one object in S3 is gone, was changed or is forbidden
│   │   ├── StoreUnreachableError    S3 does not answer, or is too busy
│   │   └── ClassMismatchError       it holds classes that training or the model lacks
│   ├── OutputError                  an output path cannot be written
│   │   └── NotSentError             S3 does not take a finished output, which is kept
│   ├── CheckpointError              a training cannot go on from what a folder holds
│   └── NotDeliveredError            exit 4: a record waits in a folder, not on the tracking server
├── InvalidImageError                one image cannot be read
├── InvalidTableError                a table cannot be read, or costs too much
├── WeightsError                     starting weights cannot be used
│   ├── WeightsDownloadError         ImageNet weights cannot be had
│   └── WeightsMismatchError         their keys are not the network's
├── InvalidModelError                a model URI leads to no model of ours
│   └── TamperedModelError           it is not what was saved or logged
│       └── TamperedWeightsError     its weights are not
├── ServerUnreachableError           the tracking server or registry does not answer
├── ServerRefusesError               it answers with a refusal
├── MissingAbilityError              it lacks what a command needs
├── ScoringServerError               a server that scores images does not answer, or refuses to
├── RefusedBodyError                 the body of a request over HTTP is too much, or damaged
├── ServerBusyError                  503: a request over HTTP cannot be answered in time
├── MissingPackageError              an optional package is not installed
├── SweepError                       a sweep cannot begin, or has no result
├── OutOfMemoryError                 even a small batch needs more memory than there is
├── ProcessEndedError                one of several processes that train together ended before the others
├── AuditFailedError                 an audit found what it was told to fail on
├── PromotionRefusedError            exit 3
└── TrainingDivergedError            exit 5
    └── PredictionsDivergedError     only what it predicts for the validation images is not finite

All of them are MlflowExceptions, with INVALID_PARAMETER_VALUE unless it says otherwise above, as MLflow's own flavors
raise, so a scoring server answers 400 with the sentence and without a stack trace.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE

from mlflow_resnet.io.text.characters import encodable, in_lines, join_names, presentable, printable

AnyPath = str | os.PathLike[str]


class MlflowResnetError(MlflowException):
    """Base of every error that a user can cause. Its message is one line that can be shown, without credentials."""

    exit_code = 2
    is_shared = False  # by all processes that train together, so that one of them tells it
    is_passing = False  # the same call may succeed later, so what was done up to here is kept
    has_lines = False  # the message is a list, and not one line
    status = INVALID_PARAMETER_VALUE  # MLflow's, which decides what a scoring server answers

    def __init__(self, message: str) -> None:
        lines = message.split("\n") if self.has_lines else [message]
        super().__init__(in_lines(lines), error_code=self.status)

    def serialize_as_json(self) -> str:
        """The answer of a scoring server: MLflow puts the whole input in front of `message`, which is not needed."""
        self.message = str(self)
        return super().serialize_as_json()

    def __reduce__(self) -> tuple[Any, ...]:
        """Processes send errors to each other; the arguments of a subclass are not those of `Exception`."""
        return type(self).__new__, (type(self), *self.args), self.__dict__


class InvalidOptionsError(MlflowResnetError):
    """One or more options cannot work; all of them are named at once."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problems))


class PathError(MlflowResnetError):
    """Something at `path` cannot be used."""

    def __init__(self, path: AnyPath, problem: str) -> None:
        text = encodable(path)
        if text.startswith("/proc/self/fd/"):  # through the handle of an open folder
            text = os.path.realpath(text)
        self.path, self.problem = presentable(text), problem
        super().__init__(f"{self.path}: {problem}")


class InvalidDatasetError(PathError):
    """`path` cannot be used as a directory or archive of images."""


class NotLabeledDatasetError(InvalidDatasetError):
    """`path` has no class folders."""

    def __init__(self, path: AnyPath) -> None:
        super().__init__(path, "no class folders. Put each class's images in a folder named after the class.")


class BadImagesError(InvalidDatasetError):
    """Some images cannot be read; `reasons` maps each name to why."""

    def __init__(self, path: AnyPath, reasons: dict[str, str]) -> None:
        self.reasons = reasons
        pairs = join_names(f"{printable(name)} ({reason})" for name, reason in reasons.items())
        problem = f"{len(reasons)} unreadable image{'s' * (len(reasons) != 1)}: {pairs}"
        super().__init__(path, f"{problem}. Repair or remove them, or leave them out with --on-bad-image skip.")


class ObjectUnreadableError(InvalidDatasetError):
    """One object in S3 cannot be read; the others may be."""


class StoreUnreachableError(InvalidDatasetError):
    """S3 does not answer, or is too busy."""

    is_passing = True


class ClassMismatchError(InvalidDatasetError):
    """`path` holds class folders that are not among the known classes."""

    def __init__(self, path: AnyPath, extra: Sequence[str], known: Sequence[str], owner: str, advice: str = "") -> None:
        self.extra, self.known = tuple(extra), tuple(known)
        unknown, has = join_names(map(repr, extra)), join_names(map(repr, known))
        problem = f"class folders {unknown} are unknown to {owner}, which has {has}."
        super().__init__(path, f"{problem} {advice or 'Rename or remove them.'}")


class InvalidImageError(MlflowResnetError):
    """One image cannot be read. Says why; the caller knows which image."""


class InvalidTableError(MlflowResnetError):
    """A table cannot be read, or costs too much to read. Says why; the caller knows which table."""


class WeightsError(MlflowResnetError):
    """Starting weights cannot be used."""

    def __init__(self, weights: str, problem: str) -> None:
        self.weights = weights
        super().__init__(f"weights {weights}: {problem}")


class WeightsDownloadError(WeightsError):
    """ImageNet weights could not be downloaded after several tries."""

    def __init__(self, weights: str, url: str, cache_file: str, reason: str, tries: int) -> None:
        super().__init__(
            weights,
            f"{url} could not be downloaded in {tries} tries ({reason}). Put the file at {cache_file}, "
            "or pass --weights FILE (a state_dict you have), or --pretrained false (train from scratch).",
        )


class WeightsMismatchError(WeightsError):
    """The keys or shapes of a state_dict are not the network's; `wrong` maps a kind, such as missing, to keys."""

    def __init__(self, weights: str, architecture: str, wrong: Mapping[str, Sequence[str]]) -> None:
        facts = "; ".join(f"{len(keys)} keys {kind}: {join_names(keys)}" for kind, keys in wrong.items() if keys)
        problem = f"not a state_dict of {architecture}: {facts}. Choose the architecture it was made for."
        super().__init__(weights, problem)


class InvalidModelError(MlflowResnetError):
    """A model URI leads to no model of ours."""

    def __init__(self, model_uri: str, problem: str) -> None:
        self.model_uri, self.problem = model_uri, problem
        super().__init__(f"{model_uri}: {problem}")

    def about(self, model_uri: str) -> InvalidModelError:
        """Returns the same error with the model's own URI in place of the folder that it was downloaded to."""
        error = type(self).__new__(type(self))
        InvalidModelError.__init__(error, model_uri, self.problem)
        return error


class TamperedModelError(InvalidModelError):
    """The digest of all that decides a model's answers is not the one recorded when it was saved or logged."""

    def __init__(self, path: str, where: str, expected: str, found: str) -> None:
        super().__init__(
            path,
            f"model_sha256 is {found}, but {where} has {expected}. Weights, classes, preprocessing or another part "
            "that decides its answers was changed or damaged; restore it or log the model again.",
        )


class TamperedWeightsError(TamperedModelError):
    """The sha256 of the weights file is not the one recorded when the model was saved."""

    def __init__(self, path: str, expected: str, found: str) -> None:
        InvalidModelError.__init__(
            self,
            path,
            f"sha256 is {found}, but the model was saved with {expected}. "
            "The weights were changed or damaged; restore them or log the model again.",
        )


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


class MissingAbilityError(MlflowResnetError):
    """The tracking server or the model registry lacks what a command needs."""

    def __init__(self, uri: str, ability: str, verb: str) -> None:
        super().__init__(f"MLflow at {uri} has no {ability}, which {verb} needs. Use a server that has them.")


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
    """A training cannot be resumed from `path`."""


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
    """An audit found images of a kind that `fail_on` names."""


class PromotionRefusedError(MlflowResnetError):
    """The candidate does not meet the bar; the alias stays where it was."""

    exit_code = 3


class TrainingDivergedError(MlflowResnetError):
    """The training loss, a weight or an output of the network became NaN or infinite."""

    exit_code = 5
    advice = "Try a lower --learning-rate or some --warmup-epochs."

    def __init__(self, what: str, epoch: int, iteration: int, learning_rate: float) -> None:
        super().__init__(
            f"{what} in epoch {epoch}, iteration {iteration}, at learning rate {learning_rate:g}. Nothing was "
            f"registered. {self.advice}"
        )


class PredictionsDivergedError(TrainingDivergedError):
    """Training succeeded, but predictions for the validation images are not finite."""

    advice = (
        "The statistics of batch normalization cannot be used, as with few images or small pictures: give more images, "
        "a larger --crop-size or --batch-size, or a lower --learning-rate."
    )
