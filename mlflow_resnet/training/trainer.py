"""One phase of a training: its epochs and steps."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from mlflow_resnet.console import say
from mlflow_resnet.errors import OutOfMemoryError, TrainingDivergedError
from mlflow_resnet.options import TrainOptions
from mlflow_resnet.training import processes
from mlflow_resnet.training.averaging import averaged
from mlflow_resnet.training.data import class_weights
from mlflow_resnet.training.hardware import give_back_memory, is_out_of_memory, pick_precision
from mlflow_resnet.training.mixing import Mixing
from mlflow_resnet.training.optimizer import build_optimizer, set_learning_rate
from mlflow_resnet.training.progress import Progress
from mlflow_resnet.training.recipe import Recipe
from mlflow_resnet.training.schedule import Schedule
from mlflow_resnet.training.work import FeatureWork, ImageWork

MIN_IMAGES = 2  # that batch norm needs


class Trainer:
    """A module, its optimizer and its place in the schedule.

    Args:
        seconds: that the phase may take; infinite if there is no budget.
    """

    def __init__(
        self,
        work: ImageWork | FeatureWork,
        recipe: Recipe,
        options: TrainOptions,
        progress: Progress,
        seconds: float,
    ) -> None:
        self.work, self.recipe, self.options, self.progress = work, recipe, options, progress
        self.device = work.device
        self.dtype = pick_precision(options.precision, self.device)
        self.num_classes = len(work.classifier.classes)
        self.iterations = len(work.train) // recipe.batch_size
        self.optimizer = build_optimizer(work.module, recipe)
        self.replica = processes.in_step(work.module, self.device)
        self.network: Callable[[Tensor], Tensor] = torch.compile(self.replica) if options.compile else self.replica
        steps, warmup_steps = recipe.epochs * self.iterations, round(recipe.warmup_epochs * self.iterations)
        self.schedule = Schedule(recipe.schedule, recipe.learning_rate, steps, warmup_steps, seconds)
        self.average = averaged(work.module, recipe.ema_decay) if recipe.ema_decay else None
        self.mixing = Mixing(recipe.mixup, recipe.cutmix, self.num_classes)
        weights = class_weights(work.train.data.targets, options.class_balance, self.num_classes)
        self.class_weights = None if weights is None else weights.to(self.device)
        self.parts = options.accumulation_steps
        self.steps = 0
        self.validation_seconds = 0.0  # that the last validation took
        self.started = perf_counter()

    @property
    def evaluated_module(self) -> torch.nn.Module:
        """The module whose predictions count: the average of the weights, if there is one."""
        return self.average.module if self.average else self.work.module

    def elapsed(self) -> float:
        """Seconds since the phase began and for one more validation; 0 without a time budget. All processes agree."""
        if math.isinf(self.schedule.seconds):
            return 0.0
        return processes.of_first(perf_counter() - self.started + self.validation_seconds)

    def is_done(self) -> bool:
        """Whether the schedule has come to its end."""
        return self.schedule.progress(self.steps, self.elapsed()) >= 1

    def train_one_epoch(self, epoch: int) -> dict[str, float]:
        """Trains on every image once, or until the time is over.

        Returns the means over images of loss and accuracy, images per second, and the last learning rate.
        """
        self.work.train_mode()
        self.progress.start_epoch(epoch, self.iterations)
        started, done = perf_counter(), 0
        sums = torch.zeros(2, device=self.device)  # loss, hits
        for images, targets in self.work.batches(epoch, self.recipe.batch_size):
            rate = self.step(images, targets, sums)
            done += 1
            self.progress.advance()
            if self.progress.is_due(done):
                self.show(sums, done, epoch, rate)
            if self.is_done():
                break
        seen = done * self.recipe.batch_size
        loss, hits = processes.summed(sums.double()).div(seen).tolist()
        self.check(loss, epoch, done, rate)
        self.place = epoch, done, rate
        speed = seen / (perf_counter() - started)
        return {
            "train_loss": loss,
            "train_top1_accuracy": hits,
            "learning_rate": rate,
            "train_images_per_second": speed,
        }

    def show(self, sums: Tensor, done: int, epoch: int, rate: float) -> None:
        """Prints the mean loss so far."""
        seen = done * self.recipe.batch_size
        loss = processes.summed(sums[0].clone()).item() / seen
        self.check(loss, epoch, done, rate)
        self.progress.show(done, seen, loss)

    def check(self, loss: float, epoch: int, iteration: int, rate: float) -> None:
        if not math.isfinite(loss):
            raise processes.alike(TrainingDivergedError(loss, epoch, iteration, rate))

    def check_weights(self, module: torch.nn.Module) -> None:
        """Raises TrainingDivergedError if a weight or statistic is not finite."""
        if not all(tensor.isfinite().all() for tensor in module.state_dict().values()):
            raise processes.alike(TrainingDivergedError(math.nan, *self.place))

    def step(self, images: Tensor, targets: Tensor, sums: Tensor) -> float:
        """One update of the weights. Adds the batch's loss and hits to `sums`; returns the learning rate."""
        elapsed = self.elapsed()
        rate = self.schedule.rate(self.steps, elapsed)
        set_learning_rate(self.optimizer, rate)
        images, targets = (x.to(self.device, non_blocking=True) for x in (images, targets))
        inputs, labels = self.work.inputs(images), targets
        if self.schedule.progress(self.steps, elapsed) < self.options.mixing_until:
            inputs, labels = self.mixing(inputs, targets, f"{self.options.random_seed}/{self.steps}")
        sums += self.gradients(inputs, targets, labels)
        if self.recipe.gradient_clip:
            clip_grad_norm_(self.work.module.parameters(), self.recipe.gradient_clip)
        self.optimizer.step()
        if self.average:
            self.average.update_parameters(self.work.module)
        self.steps += 1
        return rate

    def gradients(self, inputs: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
        """Computes the gradients of a batch, in more parts if there is not enough memory for fewer.

        Returns the sums over images of loss and hits, of shape (2,).
        """
        while True:
            try:
                return self.gradients_in_parts(inputs, targets, labels)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self.halve(len(inputs))  # after the error is gone, which holds on to what was computed

    def gradients_in_parts(self, inputs: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(2, device=self.device)
        parts = list(zip(*(x.chunk(self.parts) for x in (inputs, targets, labels)), strict=True))
        for number, (some_inputs, some_targets, some_labels) in enumerate(parts, start=1):
            with self.without_exchange(number < len(parts)):
                with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                    logits = self.network(some_inputs)
                losses = self.losses(logits.float(), some_labels)
                (losses.sum() / len(inputs)).backward()
            hits = (logits.argmax(dim=1) == some_targets).sum()
            sums += torch.stack([losses.detach().sum(), hits])
        return sums

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of each image, of shape (N,); `labels` are class indices or probabilities."""
        smoothing = self.recipe.label_smoothing
        return cross_entropy(logits, labels, self.class_weights, reduction="none", label_smoothing=smoothing)

    def without_exchange(self, wanted: bool) -> contextlib.AbstractContextManager:
        """Processes exchange gradients once a step, not after every part of it."""
        if wanted and isinstance(self.replica, DistributedDataParallel):
            return self.replica.no_sync()
        return contextlib.nullcontext()

    def halve(self, images: int) -> None:
        """Has batches of `images` computed in twice as many parts, so that the effective batch stays.

        Raises:
            OutOfMemoryError: if the parts are as small as they can be, or other processes wait for this one.
        """
        smaller = images // (2 * self.parts)
        if smaller < MIN_IMAGES or processes.world_size() > 1:
            raise OutOfMemoryError(images // self.parts, str(self.device))
        self.parts *= 2
        say(f"out of memory: batches of {images} are now computed in {self.parts} parts of {smaller} images")
        self.optimizer.zero_grad(set_to_none=True)
        give_back_memory(self.device)
