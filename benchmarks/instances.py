# /// script
# requires-python = ">=3.10"
# dependencies = ["segloss-monai"]
# ///
"""Time of the losses of instances, against the loops that they replace: a mask for each instance.

    python benchmarks/instances.py [--edge 96] [--instances 30] [--repeats 5]

The loops are written as the published code works: for every instance a mask of the whole volume,
which is multiplied with the output, and a call of MONAI's loss on the whole volume. Forward and
backward, with the loop and ours in turn; the least processor time of each.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Iterator

import torch
from monai.losses import DiceCELoss, DiceLoss
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

from segloss import BlobLoss, ConnectedComponentDiceLoss, CrossEntropyLoss, Multilabel

Candidate = Callable[[Tensor], Tensor]


def balls(edge: int, count: int) -> tuple[Tensor, Tensor]:
    """Numbered balls in a cube, and the region that is nearest to the centre of each."""
    rng = torch.Generator().manual_seed(0)
    centres = 8 + torch.rand(count, 3, generator=rng) * (edge - 16)
    voxels = torch.cartesian_prod(*[torch.arange(edge).float()] * 3)
    distance, nearest = torch.cdist(voxels, centres).min(1)
    regions = (1 + nearest).short().view(1, 1, edge, edge, edge)
    return regions * (distance < 5).view_as(regions), regions


def each_blob(criterion: nn.Module, output: Tensor, instances: Tensor) -> Iterator[Tensor]:
    """A blob's loss where no other blob is."""
    for number in torch.unique(instances):
        if number:
            mask = ~(instances > 0)
            mask[instances == number] = True
            yield criterion(output * mask, (instances == number).float())


def each_region(
    criterion: nn.Module, output: Tensor, label: Tensor, regions: Tensor
) -> Iterator[Tensor]:
    """The loss within a region."""
    for number in torch.unique(regions):
        mask = regions == number
        yield criterion(output * mask, label * mask)


def mean(values: Iterator[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()


def pairs(instances: Tensor, regions: Tensor) -> dict[str, tuple[int, Candidate, Candidate]]:
    """The number of channels, the loop, and ours, by name."""
    label, region = (instances > 0).long(), Multilabel()
    of_voxels = CrossEntropyLoss()
    blob, components = BlobLoss(region), ConnectedComponentDiceLoss()
    dice = DiceLoss(softmax=True, to_onehot_y=True, include_background=False)
    both = DiceCELoss(softmax=True, to_onehot_y=True)
    return {
        "BlobLoss": (
            1,
            lambda z: mean(each_blob(DiceLoss(sigmoid=True), z, instances)),
            lambda z: blob(z, label, instances=instances),
        ),
        "ConnectedComponentDiceLoss": (
            2,
            lambda z: mean(each_region(dice, z, label, regions)),
            lambda z: components(z, label, instances=regions),
        ),
        "ConnectedComponentDiceLoss + CrossEntropyLoss": (
            2,
            lambda z: mean(each_region(both, z, label, regions)),
            lambda z: (components + of_voxels)(z, label, instances=regions),
        ),
    }


def seconds(loss: Candidate, logits: Tensor) -> float:
    """Processor time of one forward and backward pass."""
    z = logits.detach().requires_grad_()
    start = time.process_time()
    loss(z).backward()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edge", type=int, default=96)
    parser.add_argument("--instances", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="monai")
    torch.set_num_threads(1)  # processor time is then what one waits for

    instances, regions = balls(options.edge, options.instances)
    table = Table("loss", "loop, ms", "ms", "times faster")
    for name, (channels, loop, ours) in pairs(instances, regions).items():
        logits = torch.randn(1, channels, *instances.shape[2:])
        slow, fast = [], []
        for _ in track(range(options.repeats), name, transient=True):
            slow.append(seconds(loop, logits))
            fast += [seconds(ours, logits) for _ in range(3)]
        a, b = 1e3 * min(slow), 1e3 * min(fast)
        table.add_row(name, f"{a:.0f}", f"{b:.1f}", f"{a / b:.0f}")
    Console().print(f"{options.instances} instances in {options.edge}³", table)


if __name__ == "__main__":
    main()
