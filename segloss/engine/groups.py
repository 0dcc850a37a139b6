"""Over which voxels a sum runs before a loss turns it into a score."""

from typing import Literal

import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce

__all__ = ["GROUPS", "Group", "pool"]

Group = Literal["sample", "batch", "ranks"]
GROUPS: tuple[Group, ...] = ("sample", "batch", "ranks")


def pool(sums: Tensor, group: Group) -> Tensor:
    """Add up the per-sample sums ``(s, b, …)`` of each group, giving ``(s, g, …)``.

    ``"ranks"`` adds up the batches of all processes of the default process group too. Its gradient
    is added up over them as well, so that after DistributedDataParallel's averaging it is the
    gradient of the loss of the joint batch. Without a process group it is ``"batch"``.
    """
    if group == "sample":
        return sums
    pooled = sums.sum(1, keepdim=True)
    if group == "ranks" and dist.is_available() and dist.is_initialized():
        reduced: Tensor = all_reduce(pooled.contiguous())
        return reduced
    return pooled
