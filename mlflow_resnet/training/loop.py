"""The epoch loop."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer

from mlflow_resnet.errors import TrainingDivergedError
from mlflow_resnet.evaluation.evaluate import Evaluation, evaluate
from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.images.parallel import default_threads
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.network import pick_device
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.options import TrainOptions
from mlflow_resnet.training.data import TrainingImages
from mlflow_resnet.training.progress import Progress
from mlflow_resnet.training.schedule import learning_rate_at

MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
VAL_NAMES = {"log_loss": "val_loss"}


@dataclass(frozen=True)
class EpochResult:
    """One epoch's numbers. `epoch` counts from 1; metrics are fractions, mean losses in nats, and images per second."""

    epoch: int
    metrics: dict[str, float]
    evaluation: Evaluation
    is_best: bool


def fit(
    classifier: ImageClassifier, train: TrainingImages, val: LabeledDirectory, options: TrainOptions, progress: Progress
) -> Iterator[EpochResult]:
    """Trains the classifier's network in place and yields after each epoch.

    Iterate to the end: only then the network holds the weights of the best epoch (highest validation accuracy, lower
    loss among equals), on the CPU and in eval mode. Same seed, machine and number of torch threads give the same bits.

    Raises:
        TrainingDivergedError: if the loss becomes NaN or infinite.
    """
    iterations = len(train) // options.batch_size
    trainer = Trainer(classifier, train, options, progress, iterations)
    best = Best()
    with deterministic_cudnn():
        for epoch in range(1, options.epochs + 1):
            started = perf_counter()
            with contextlib.closing(progress):
                train_metrics = trainer.train_one_epoch(epoch)
            train_metrics["train_images_per_second"] = iterations * options.batch_size / (perf_counter() - started)
            if not all(tensor.isfinite().all() for tensor in classifier.network.state_dict().values()):
                raise TrainingDivergedError(math.nan, epoch, iterations, train_metrics["learning_rate"])
            evaluation = validate(classifier, val, options)
            val_metrics = {VAL_NAMES.get(name, f"val_{name}"): value for name, value in evaluation.headline.items()}
            is_best = best.update(epoch, val_metrics, classifier.network)
            progress.end_epoch(summarize(train_metrics, val_metrics, is_best))
            yield EpochResult(epoch, train_metrics | val_metrics, evaluation, is_best)
            if epoch - best.epoch >= options.patience:
                break
    classifier.network.load_state_dict(best.weights)
    classifier.network.to("cpu").eval()


class Trainer:
    """A network, its optimizer and its position in the schedule."""

    def __init__(
        self,
        classifier: ImageClassifier,
        train: TrainingImages,
        options: TrainOptions,
        progress: Progress,
        iterations: int,
    ) -> None:
        self.device = pick_device(options.device)
        self.network = classifier.network.to(self.device)
        self.optimizer = build_optimizer(self.network, options.learning_rate)
        self.normalize = classifier.preprocessing.normalize
        self.train, self.options, self.progress, self.iterations = train, options, progress, iterations
        self.threads = options.num_workers or default_threads()

    def train_one_epoch(self, epoch: int) -> dict[str, float]:
        """Trains on every image once and returns the means over images of loss and accuracy, and the last rate."""
        self.network.train()
        self.progress.start_epoch(epoch, self.iterations)
        loss_sum = torch.zeros((), device=self.device)
        correct = torch.zeros((), device=self.device)
        batches = self.train.batches(epoch, self.options.batch_size, self.threads)
        for iteration, (images, targets) in enumerate(batches, start=1):
            rate = self.set_learning_rate((epoch - 1) * self.iterations + iteration - 1)
            loss, hits = self.step(images, targets)
            loss_sum += loss * len(images)
            correct += hits
            self.progress.advance()
            if self.progress.is_due(iteration):
                seen = iteration * self.options.batch_size
                mean_loss = loss_sum.item() / seen
                if not math.isfinite(mean_loss):
                    raise TrainingDivergedError(mean_loss, epoch, iteration, rate)
                self.progress.show(iteration, seen, mean_loss)
        return {"train_loss": mean_loss, "train_top1_accuracy": correct.item() / seen, "learning_rate": rate}

    def set_learning_rate(self, step: int) -> float:
        """Sets the rate of the optimizer for `step` of the whole run and returns it."""
        options = self.options
        steps, warmup_steps = options.epochs * self.iterations, options.warmup_epochs * self.iterations
        rate = learning_rate_at(step, steps, warmup_steps, options.learning_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def step(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """One update of the weights. Returns the batch's mean loss and its number of hits, both on the device."""
        images, targets = images.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True)
        logits = self.network(self.normalize(images))
        loss = cross_entropy(logits, targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach(), (logits.argmax(dim=1) == targets).sum()


def build_optimizer(network: nn.Module, learning_rate: float) -> Optimizer:
    """SGD with Nesterov momentum. Weight decay on weights of convolutions and the head, not on norms and biases."""
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    return SGD(groups, lr=learning_rate, momentum=MOMENTUM, nesterov=True)


def validate(classifier: ImageClassifier, val: LabeledDirectory, options: TrainOptions) -> Evaluation:
    """Predicts `val` through the predict path that scoring and serving use."""
    predictor = Predictor(classifier, options.device, options.num_workers)
    return evaluate(predictor, val, max(options.batch_size, 32))


class Best:
    """A copy of the best epoch's weights."""

    def __init__(self) -> None:
        self.epoch = 0
        self.score = (-math.inf, -math.inf)
        self.weights: dict[str, Tensor] = {}

    def update(self, epoch: int, val_metrics: dict[str, float], network: nn.Module) -> bool:
        """Copies the weights if this epoch is the best so far, and says whether it is."""
        score = (val_metrics["val_top1_accuracy"], -val_metrics["val_loss"])
        if score <= self.score:
            return False
        self.epoch, self.score = epoch, score
        self.weights = {key: tensor.detach().clone() for key, tensor in network.state_dict().items()}
        return True


@contextlib.contextmanager
def deterministic_cudnn() -> Iterator[None]:
    """Lets cuDNN use only algorithms that give the same bits every time; restores its settings."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=cudnn.allow_tf32):
        yield


def summarize(train_metrics: dict[str, float], val_metrics: dict[str, float], is_best: bool) -> str:
    """One epoch in a line."""
    train = f"train loss {train_metrics['train_loss']:.4f}, {train_metrics['train_images_per_second']:.0f} images/s"
    val = f"val loss {val_metrics['val_loss']:.4f}, val top-1 {val_metrics['val_top1_accuracy']:.2%}"
    return f"{train}, {val}{' (best)' if is_best else ''}"
