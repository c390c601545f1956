"""The one batch norm of the project: its batch is that of all processes."""

import torch
import torch.distributed
from torch import Tensor, nn


class SyncBatchNorm2d(nn.BatchNorm2d):
    """A batch norm whose batch is that of all processes, on CPUs too: training on several gives
    what training on one gives.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Returns [B, C, H, W]."""
        if (
            not self.training
            or not torch.distributed.is_initialized()
            or torch.distributed.get_world_size() == 1
        ):
            return super().forward(x)
        from torch.distributed.nn.functional import all_reduce  # differentiable

        count = x.numel() / x.shape[1] * torch.distributed.get_world_size()
        mean = all_reduce(x.sum((0, 2, 3))) / count
        centered = x - mean[:, None, None]
        variance = all_reduce(centered.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scaled = centered * torch.rsqrt(variance + self.eps)[:, None, None]
        return scaled * self.weight[:, None, None] + self.bias[:, None, None]
