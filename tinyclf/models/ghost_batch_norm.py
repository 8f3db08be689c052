"""Ghost batch norm: each part of a batch is normalised by itself, as where several devices share the batch.

Source: Hoffer et al. 2017, arXiv:1705.08741. The published runs had it from torch's `DataParallel` on two GPUs.
"""

from typing import cast

import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import batch_norm


class GhostBatchNorm2d(nn.BatchNorm2d):
    """torch's `BatchNorm2d` over each of `ghost_batches` parts of a batch; made by `use_ghost_batch_norm`.

    A batch is cut as `Tensor.chunk` cuts it, and as `DataParallel` does: all parts but the last are of the same size.
    The running values are those of the first part. In evaluation nothing changes.
    """

    ghost_batches: int

    def forward(self, input: Tensor) -> Tensor:
        """From (B, C, H, W) to the same shape. Of several processes, each has its share of the parts."""
        if not self.training:
            return super().forward(input)
        processes = distributed.get_world_size() if distributed.is_initialized() else 1
        first, *others = input.chunk(self.ghost_batches // processes)
        outputs = [super().forward(first)]
        outputs += [batch_norm(part, None, None, self.weight, self.bias, True, eps=self.eps) for part in others]
        return torch.cat(outputs)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, ghost_batches={self.ghost_batches}"


def use_ghost_batch_norm(model: nn.Module, ghost_batches: int) -> None:
    """Have each batch norm of `model` normalise `ghost_batches` parts of a batch by themselves, in place; 1: the whole.

    Parameters, buffers and their names stay the same. A model without batch norms stays as it is.
    """
    for layer in model.modules():
        if type(layer) is nn.BatchNorm2d and ghost_batches > 1:
            layer.__class__ = GhostBatchNorm2d
            cast(GhostBatchNorm2d, layer).ghost_batches = ghost_batches
