"""Weights and models that cannot be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlflow_resnet.errors.base import MlflowResnetError, listed


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
        facts = "; ".join(f"{len(keys)} keys {kind}: {listed(keys)}" for kind, keys in wrong.items() if keys)
        super().__init__(
            weights, f"not a state_dict of {architecture}: {facts}. Choose the architecture it was made for."
        )


class InvalidModelError(MlflowResnetError):
    """A model URI leads to no model of ours."""

    def __init__(self, model_uri: str, problem: str) -> None:
        self.model_uri, self.problem = model_uri, problem
        super().__init__(f"{model_uri}: {problem}")

    def about(self, model_uri: str) -> InvalidModelError:
        """The same of the model's own URI, rather than of the folder that it was downloaded to."""
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
