"""Batch norms that see the images of all processes that train together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mlflow_resnet.training.distributed.processes import summed, world_size


def synchronize_batch_norms(network: nn.Module, device: torch.device) -> None:
    """Has the batch norms of a ResNet see the images of all processes. The names in its state_dict stay."""
    if world_size() == 1:
        return
    kind = nn.SyncBatchNorm.convert_sync_batchnorm if device.type == "cuda" else GlooSyncBatchNorm.like
    for parent in list(network.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, kind(norm))


class OverProcesses(torch.autograd.Function):
    """The sum over all processes. The loss of each of them depends on it, so its gradient is a sum, too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return summed(values.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return summed(gradient.clone())


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of each channel of (N, C, H, W) over all processes, which have equal N: shape (C,)."""
    return OverProcesses.apply(values.mean((0, 2, 3))) / world_size()


class GlooSyncBatchNorm(nn.BatchNorm2d):
    """Batch norm over the images of all processes; torch's own takes only GPUs. Processes have equal batches."""

    @classmethod
    def like(cls, norm: nn.BatchNorm2d) -> GlooSyncBatchNorm:
        """One with the parameters and statistics of `norm`."""
        new = cls(norm.num_features, norm.eps, norm.momentum)
        new.load_state_dict(norm.state_dict())
        return new.train(norm.training)

    def forward(self, images: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(images)
        values = images.float()
        shape = (1, -1, 1, 1)
        mean = mean_over_processes(values)
        centered = values - mean.view(shape)
        variance = mean_over_processes(centered.square())
        self.follow(mean.detach(), variance.detach(), values.numel() // values.shape[1] * world_size())
        scale = self.weight / torch.sqrt(variance + self.eps)
        return (centered * scale.view(shape) + self.bias.view(shape)).to(images.dtype)

    @torch.no_grad()
    def follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Moves the running statistics towards these; the variance becomes that of a sample."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / max(count - 1, 1), self.momentum)
