"""Instances: lesions, cells, vessels, each of which counts as much as any other."""

from abc import abstractmethod
from typing import final

from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import Unpack

from segloss.encoding import Encoded, Encoding, Multiclass
from segloss.engine.instances import instance_sums
from segloss.losses.base import RegionOptions, ScoreLoss, Sums, ratio
from segloss.losses.overlap import dice
from segloss.shapes import Scores

__all__ = ["BlobLoss", "ConnectedComponentDiceLoss"]


class _InstanceLoss(ScoreLoss):
    """The mean of `dice` over the instances of a group, whatever their size."""

    needs = ()
    compiles = False

    def __init__(
        self,
        encoding: Encoding = Multiclass(background=False),
        **options: Unpack[RegionOptions],
    ) -> None:
        super().__init__(encoding, **options)

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"instances"})

    @abstractmethod
    def domain(self, by_instance: Tensor) -> Tensor:
        """The sums over where an instance is looked for, from those over the numbers of the map.

        Args:
            by_instance: ``(b, k, 1 + n)``, the first over the voxels numbered 0.

        Returns:
            ``(b, k, n)``.
        """

    def own_sums(self, encoded: Encoded, space: tuple[int, ...]) -> Sums:
        pred, overlap, true = instance_sums(encoded, self.encoding.first).unbind(1)
        found = true[..., 1:] > 0
        sums = {"pred": pred, "overlap": overlap, "true": true}
        where = {name: self.domain(x).flatten(1) for name, x in sums.items()}
        cost = dice(where, self.smooth_nr, self.smooth_dr).view_as(found)
        summed = {"instance_dice": cost.where(found, 0).sum(2), "instances": found.sum(2).to(cost)}
        # Nodes that are not scored, or without a channel in the map, come first.
        missing = encoded.nodes - pred.shape[1]
        return {name: pad(x, (missing, 0)) for name, x in summed.items()}

    def score(self, sums: Sums) -> Scores:
        return ratio(sums["instance_dice"], sums["instances"])


@final
class ConnectedComponentDiceLoss(_InstanceLoss):
    r"""Dice of every component within its own region, averaged: from 0 to 1.

    .. math::

        \frac{1}{n} \sum_{r=1}^{n} \left(1 - \frac{2 \sum_{v \in r} w p y + \epsilon_n}
        {\sum_{v \in r} w p + \sum_{v \in r} w y + \epsilon_d}\right)

    The regions share the image out among the components, each voxel going to the nearest: a small
    lesion counts as much as a large one, and a false positive is charged to one of them. The cost
    is a pass of its own over the voxels, however many components there are. As published
    it is used with cross entropy: ``ConnectedComponentDiceLoss() + CrossEntropyLoss()``. It can be
    differentiated once, and torch.compile leaves it as it is.

    Takes the map ``instances=``, integers from 0, numbered within each sample, of
    `segloss.transforms.InstanceRegionsd` with ``regions="voronoi"``: ``(b, *space)`` or
    ``(b, 1, *space)``, or one channel for each class. A region without a voxel of the class, as a
    crop may leave it, is none of that class's regions, and what is predicted there costs nothing:
    so with several classes give each a channel of its own (the regions of a label of channels), and
    add a loss of voxels. Voxels numbered 0 count for nothing. On a GPU, numbers of more than 16 bits
    cost a synchronisation, to find the largest.

    Args:
        encoding: What the channels mean. A background has no components; by default it is left out.
        **options: Those of `segloss.RegionLoss`. A group's score is the mean over its components;
            the smoothings are each component's. A class without any scores 0, with no gradient,
            unless ``empty`` says otherwise.

    References:
        "CC-DiceCE", arXiv 2511.17146, which we have not read: the formula is our reading of
        its description, and of Jaus et al., "Every component counts", AAAI 2025, for the regions.

    Example:
        >>> import torch
        >>> label = torch.tensor([[[1, 1, 1, 0, 0, 1]]])
        >>> regions = torch.tensor([[[1, 1, 1, 1, 2, 2]]])
        >>> found = torch.tensor([[[9.0, 9.0, 9.0, -9.0, -9.0, -9.0]]])  # the large one only
        >>> logits = torch.stack([-found, found], 1)
        >>> ConnectedComponentDiceLoss()(logits, label, instances=regions)
        tensor(0.5000)
    """

    def domain(self, by_instance: Tensor) -> Tensor:
        return by_instance[..., 1:]


@final
class BlobLoss(_InstanceLoss):
    r"""Dice of every component within all that is not another, averaged: from 0 to 1.

    .. math::

        \frac{1}{n} \sum_{r=1}^{n} \left(1 - \frac{2 \sum_{v \in \Omega_r} w p y + \epsilon_n}
        {\sum_{v \in \Omega_r} w p + \sum_{v \in \Omega_r} w y + \epsilon_d}\right)

    with :math:`\Omega_r` the image without the other components. Every false positive is charged to
    all components. The probabilities of the others are left out; their logits are not touched. Add
    it to a loss of the whole image, such as ``DiceLoss() + CrossEntropyLoss() + BlobLoss()``. The
    cost is a pass of its own over the voxels, however many components there are. It can
    be differentiated once, and torch.compile leaves it as it is.

    Takes the map ``instances=``, integers from 0, numbered within each sample, of
    `segloss.transforms.InstanceRegionsd`: ``(b, *space)`` or ``(b, 1, *space)``, or one channel for
    each class, with which only a class's own components are other components. On a GPU, numbers of
    more than 16 bits cost a synchronisation, to find the largest.

    Args:
        encoding: What the channels mean. A background has no components; by default it is left out.
        **options: Those of `segloss.RegionLoss`. A group's score is the mean over its components;
            the smoothings are each component's. A class without any scores 0, with no gradient,
            unless ``empty`` says otherwise.

    References:
        Kofler et al., "blob loss: instance imbalance aware loss functions for semantic
        segmentation", IPMI 2023, with Dice as the loss of a component. The mean over all components
        of a group, rather than over samples first, with ``group="batch"``, is ours.

    Example:
        >>> import torch
        >>> label = torch.tensor([[[1, 1, 1, 0, 0, 1]]])
        >>> components = torch.tensor([[[1, 1, 1, 0, 0, 2]]])
        >>> found = torch.tensor([[[9.0, 9.0, 9.0, -9.0, -9.0, -9.0]]])  # the large one only
        >>> logits = torch.stack([-found, found], 1)
        >>> BlobLoss()(logits, label, instances=components)
        tensor(0.5000)
    """

    def domain(self, by_instance: Tensor) -> Tensor:
        return by_instance[..., 1:] + by_instance[..., :1]
