"""One phase of a training: its epochs and steps."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from time import perf_counter
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from mlflow_resnet.errors import MlflowResnetError, OutOfMemoryError, TrainingDivergedError
from mlflow_resnet.io.console import say
from mlflow_resnet.model.hardware import give_back_memory, is_out_of_memory
from mlflow_resnet.model.precision import pick_precision
from mlflow_resnet.options.train import TrainOptions
from mlflow_resnet.training import processes
from mlflow_resnet.training.input.labeled_images import class_weights
from mlflow_resnet.training.input.mixing import Mixing
from mlflow_resnet.training.optimizer import (
    Schedule,
    average_weights,
    build_optimizer,
    load_optimizer_state,
    name_optimizer_state,
    set_learning_rate,
)
from mlflow_resnet.training.progress import TrainingProgress
from mlflow_resnet.training.recipe import Recipe
from mlflow_resnet.training.work import AnyWork

T = TypeVar("T")

MIN_IMAGES = 2  # that batch norm needs
MAX_RATES = 50  # that an epoch keeps

Rate = tuple[int, float, int]  # steps done, learning rate of the last of them, milliseconds since 1970


@dataclass
class EpochSoFar:
    """The part of an epoch that is done.

    Attributes:
        sums: of the loss and the hits over images, of shape (2,).
        seconds: that it took; `data_seconds` of them waiting for batches.
        rates: of some steps, evenly spaced, and of the last one.
        metrics: of the whole, once it is done; empty before.
    """

    sums: Tensor
    iterations: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0
    rates: list[Rate] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the last step."""
        return self.rates[-1][1] if self.rates else 0.0

    def time_batches(self, batches: Iterator[T]) -> Iterator[T]:
        """Yields the batches and counts the time spent waiting for them."""
        while True:
            began = perf_counter()
            batch = next(batches, None)
            self.data_seconds += perf_counter() - began
            if batch is None:
                return
            yield batch

    def add(self, sums: Tensor, rate: float, iterations: int) -> None:
        """Counts a step at a learning rate, of the `iterations` that the whole epoch has."""
        self.sums += sums
        self.iterations += 1
        spacing = math.ceil(iterations / (MAX_RATES - 1))
        if self.rates and (self.rates[-1][0] - 1) % spacing:
            self.rates.pop()  # it was kept only because it was the last
        self.rates.append((self.iterations, rate, int(time.time() * 1000)))


class Trainer:
    """A module, its optimizer and its place in the schedule.

    Args:
        seconds: that the phase may take; infinite if there is no budget.
    """

    def __init__(
        self, work: AnyWork, recipe: Recipe, options: TrainOptions, progress: TrainingProgress, seconds: float
    ) -> None:
        self.work, self.recipe, self.options, self.progress = work, recipe, options, progress
        self.device = work.device
        self.dtype = pick_precision(options.precision, self.device)
        self.iterations = len(work.train) // recipe.batch_size
        self.optimizer = build_optimizer(work.module, recipe)
        self.replica: nn.Module = work.module
        if processes.world_size() > 1:  # the gradients of all become their mean
            gpus = [self.device.index] if self.device.type == "cuda" else None
            self.replica = DistributedDataParallel(work.module, device_ids=gpus)
        self.network: Callable[[Tensor], Tensor] = torch.compile(self.replica) if options.compile else self.replica
        steps, warmup_steps = recipe.epochs * self.iterations, round(recipe.warmup_epochs * self.iterations)
        self.schedule = Schedule(recipe.schedule, recipe.learning_rate, steps, warmup_steps, seconds)
        self.average = average_weights(work.module, recipe.ema_decay) if recipe.ema_decay else None
        num_classes = len(work.classifier.classes)
        self.mixing = Mixing(recipe.mixup, recipe.cutmix, num_classes)
        weights = class_weights(work.train.data.targets, options.class_balance, num_classes)
        self.class_weights = None if weights is None else weights.to(self.device)
        self.parts = options.accumulation_steps
        self.rate_factor = 1.0  # of the schedule's learning rate, after a divergence
        self.steps = 0
        self.in_step = False
        self.validation_seconds = 0.0  # that the last validation took
        self.started = perf_counter()
        self.begin_epoch()

    def begin_epoch(self) -> None:
        self.epoch = EpochSoFar(torch.zeros(2, device=self.device))

    def state_dict(self) -> dict[str, Any]:
        """All but the network, for all processes, which call it together, unless the epoch is done."""
        so_far = self.epoch
        sums = so_far.sums if so_far.metrics else processes.sum_values(so_far.sums.clone())
        return {
            "steps": self.steps,
            "parts": self.parts,
            "rate_factor": self.rate_factor,
            "validation_seconds": self.validation_seconds,
            "elapsed": perf_counter() - self.started,
            "schedule": {"fall_from": self.schedule.fall_from, "seconds": self.schedule.seconds},
            "epoch": vars(so_far) | {"sums": sums},
            "optimizer": name_optimizer_state(self.optimizer, self.work.module),
            "average": dict(self.average.state_dict()) if self.average else {},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undoes `state_dict`; the network has its weights already."""
        self.steps, self.parts, self.rate_factor = state["steps"], state["parts"], state["rate_factor"]
        self.validation_seconds = state["validation_seconds"]
        self.started = perf_counter() - state["elapsed"]
        self.schedule.fall_from, self.schedule.seconds = state["schedule"]["fall_from"], state["schedule"]["seconds"]
        sums = state["epoch"]["sums"].to(self.device)
        own = sums if processes.rank() == 0 else torch.zeros_like(sums)  # the first goes on with the sums of all
        self.epoch = EpochSoFar(**{each.name: state["epoch"][each.name] for each in fields(EpochSoFar)} | {"sums": own})
        load_optimizer_state(self.optimizer, self.work.module, state["optimizer"])
        if self.average:
            self.average.load_state_dict(state["average"])

    @property
    def evaluation_module(self) -> nn.Module:
        """The module whose predictions count: the average of the weights, if there is one."""
        return self.average.module if self.average else self.work.module

    def get_evaluation_weights(self) -> dict[str, Tensor]:
        """State_dict of the whole network with the weights of that module, which are not copied."""
        return self.work.state(self.evaluation_module)

    def measure_elapsed(self) -> float:
        """Seconds since the phase began and for one more validation; 0 without a time budget. All processes agree."""
        if math.isinf(self.schedule.seconds):
            return 0.0
        return processes.broadcast_first(perf_counter() - self.started + self.validation_seconds)

    def is_done(self) -> bool:
        """Returns whether the schedule has ended."""
        return self.schedule.progress(self.steps, self.measure_elapsed()) >= 1

    def train_one_epoch(self, epoch: int) -> Iterator[None]:
        """Trains on every image once, or until the time is over; resumes a partial epoch. Yields after each step.

        Then `self.epoch.metrics` has the means over images of loss and accuracy, the last learning rate, and the speed.
        """
        so_far, batch_size = self.epoch, self.recipe.batch_size
        self.progress.start_epoch(epoch, self.iterations, so_far.iterations)
        if so_far.metrics:
            return
        self.work.train_mode()
        started, previous = perf_counter() - so_far.seconds, torch.zeros(2, device=self.device)
        for images, targets in so_far.time_batches(self.work.batches(epoch, batch_size, so_far.iterations)):
            sums = self.step(images, targets)
            self.check(processes.sum_values(previous[0]).item(), epoch)  # a GPU need not wait for that of this step
            previous = sums
            so_far.seconds = perf_counter() - started
            self.progress.advance()
            if self.progress.is_due(so_far.iterations):
                seen = so_far.iterations * batch_size
                loss = processes.sum_values(so_far.sums[0].clone()).item() / seen
                self.check(loss, epoch)
                self.progress.show(so_far.iterations, loss, seen / so_far.seconds)
            yield
            if self.is_done():
                break
        seen = so_far.iterations * batch_size
        loss, hits = processes.sum_values(so_far.sums.double()).div(seen).tolist()
        self.check(loss, epoch)
        so_far.seconds = perf_counter() - started
        so_far.metrics = {
            "train_loss": loss,
            "train_top1_accuracy": hits,
            "learning_rate": so_far.learning_rate,
            "train_images_per_second": seen / so_far.seconds,
            "timing/train_images_per_second_without_data": seen / (so_far.seconds - so_far.data_seconds),
            "timing/data_share": so_far.data_seconds / so_far.seconds,
        }

    def check(self, loss: float, epoch: int) -> None:
        if not math.isfinite(loss):
            raise self.divergence(TrainingDivergedError, f"the training loss became {loss}", epoch)

    def divergence(self, kind: type[TrainingDivergedError], what: str, epoch: int) -> MlflowResnetError:
        error = kind(what, epoch, self.epoch.iterations, self.epoch.learning_rate)
        error.is_shared = processes.world_size() > 1
        return error

    def step(self, images: Tensor, targets: Tensor) -> Tensor:
        """One update of the weights. Returns the batch's sums of loss and hits, and adds them to the epoch's."""
        self.in_step = True
        elapsed = self.measure_elapsed()
        rate = self.schedule.rate(self.steps, elapsed) * self.rate_factor
        set_learning_rate(self.optimizer, rate)
        images, targets = (x.to(self.device, non_blocking=True) for x in (images, targets))
        inputs, labels = self.work.inputs(images), targets
        if self.schedule.progress(self.steps, elapsed) < self.options.mixing_until:
            inputs, labels = self.mixing(inputs, targets, f"{self.options.random_seed}/{self.steps}")
        sums = self.gradients(inputs, targets, labels)
        if self.recipe.gradient_clip:
            clip_grad_norm_(self.work.module.parameters(), self.recipe.gradient_clip)
        self.optimizer.step()
        if self.average:
            self.average.update_parameters(self.work.module)
        self.epoch.add(sums, rate, self.iterations)
        self.steps += 1
        self.in_step = False
        return sums

    def gradients(self, inputs: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
        """Computes the gradients of a batch, in more parts if there is not enough memory for fewer.

        Returns the sums over images of loss and hits, of shape (2,). `labels` are class indices or probabilities.

        Raises:
            OutOfMemoryError: if the parts are as small as they can be, or other processes wait for this one.
        """
        images = len(inputs)
        while True:
            try:
                return self.gradients_in_parts(inputs, targets, labels)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Here the error is gone, which holds on to what was computed.
            smaller = images // (2 * self.parts)
            if smaller < MIN_IMAGES or processes.world_size() > 1:
                raise OutOfMemoryError(images // self.parts, str(self.device))
            self.parts *= 2
            say(f"out of memory: batches of {images} are now computed in {self.parts} parts of {smaller} images")
            self.optimizer.zero_grad(set_to_none=True)
            give_back_memory(self.device)

    def gradients_in_parts(self, inputs: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        sums, smoothing = torch.zeros(2, device=self.device), self.recipe.label_smoothing
        parts = list(zip(*(x.chunk(self.parts) for x in (inputs, targets, labels)), strict=True))
        for number, (some_inputs, some_targets, some_labels) in enumerate(parts, start=1):
            with self.without_exchange(number < len(parts)):
                with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                    logits = self.network(some_inputs)
                losses = cross_entropy(
                    logits.float(), some_labels, self.class_weights, reduction="none", label_smoothing=smoothing
                )
                (losses.sum() / len(inputs)).backward()
            hits = (logits.argmax(dim=1) == some_targets).sum()
            sums += torch.stack([losses.detach().sum(), hits])
        return sums

    def without_exchange(self, wanted: bool) -> contextlib.AbstractContextManager:
        """Processes exchange gradients once a step, not after every part of it."""
        if wanted and isinstance(self.replica, DistributedDataParallel):
            return self.replica.no_sync()
        return contextlib.nullcontext()


def has_finite_weights(module: nn.Module) -> bool:
    """Returns whether all weights and statistics are finite."""
    return all(bool(tensor.isfinite().all()) for tensor in module.state_dict().values())
