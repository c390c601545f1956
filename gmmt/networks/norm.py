"""The one batch norm of the project: its batch is that of all processes."""

import torch
import torch.distributed
from torch import Tensor, nn


class SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; each gets the gradients of all."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return SumOverProcesses.apply(gradient)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """A batch norm whose batch is that of all processes, which hold equally many items.

    Elsewhere it is torch's BatchNorm2d. torch's SyncBatchNorm does the same, but on GPUs only.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] in x's dtype, from statistics in float32 at least, as torch's are."""
        if not self.training or not torch.distributed.is_initialized():
            return super().forward(x)
        processes = torch.distributed.get_world_size()
        if processes == 1:
            return super().forward(x)

        # 1. Mean and variance over all processes.
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        count = values.numel() / values.shape[1] * processes
        mean = SumOverProcesses.apply(values.sum((0, 2, 3))) / count
        centered = values - mean[:, None, None]
        variance = SumOverProcesses.apply(centered.square().sum((0, 2, 3))) / count

        # 2. Running statistics, with the unbiased variance.
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)

        # 3. Normalise, scale and shift.
        scaled = centered * torch.rsqrt(variance + self.eps)[:, None, None]
        return (scaled * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)
