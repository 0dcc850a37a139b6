"""Regions that are nested by construction, in nnU-Net: the network ends in nested log odds.

nnU-Net predicts with a label manager of its own, to which no trainer can give an activation. So the
nesting happens one step before: what leaves the network are log odds whose sigmoids are nested, and
averaging over windows and flips, linear resampling and thresholding keep them so.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segloss.label_tree import LabelTree
from segloss.nnunet.mixin import TrainerMixin

__all__ = ["NestedNetwork", "NestedRegionsMixin", "nested_odds", "parents_of_regions"]


def nested_odds(logits: Tensor, parents: Sequence[int]) -> Tensor:
    r"""Log odds of each region, of which the logits are those given its parent.

    With a sigmoid these are the probabilities of `segloss.ConditionalSigmoid`: the product down the
    path. From :math:`1/p_v = (1 + e^{-q_u}) (1 + e^{-z_v})` for a region v in u,

    .. math:: q_v = -\log(e^{-q_u} + e^{-z_v} + e^{-q_u - z_v})

    Args:
        logits: ``(b, r, *space)``.
        parents: The number of the region around each, -1 for none.

    Returns:
        ``(b, r, *space)`` in single precision or more; no region above its parent.
    """
    z = logits.to(torch.promote_types(logits.dtype, torch.float32)).unbind(1)
    odds: dict[int, Tensor] = {}

    def of(region: int) -> Tensor:
        if region not in odds:
            own, parent = z[region], parents[region]
            if parent >= 0:
                around = of(parent)
                odds_against = torch.stack((-around, -own, -around - own)).logsumexp(0)
                own = torch.minimum(-odds_against, around)  # rounding
            odds[region] = own
        return odds[region]

    return torch.stack([of(region) for region in range(len(z))], 1)


def parents_of_regions(dataset: Mapping[str, Any]) -> tuple[int, ...]:
    """The number of the region around each of a dataset's regions, in nnU-Net's order; -1 for none.

    Args:
        dataset: What is in nnU-Net's ``dataset.json``.

    Raises:
        ValueError: If there are no regions, or two overlap and neither is part of the other.
    """
    if "regions_class_order" not in dataset:
        raise ValueError(
            "nested regions need a dataset with regions: lists of labels in dataset.json, and "
            "regions_class_order"
        )
    tree = LabelTree.from_nnunet(dataset)
    names = [name for name in dataset["labels"] if name not in ("background", "ignore")]
    around = [tree.parents[tree.index(name)] for name in names]
    return tuple(names.index(tree.names[v]) if v >= 0 else -1 for v in around)


class NestedNetwork(nn.Module):
    """A network whose outputs, at every scale, become nested log odds of regions.

    The parents are saved among the weights, so that a model predicts as it was trained, and a
    trainer that knows nothing of them refuses to load it.

    Args:
        network: The network; what has a ``decoder`` keeps it.

    Attributes:
        parents: The number of the region around each; None until they are set, or loaded.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.parents: tuple[int, ...] | None = None

    @property
    def decoder(self) -> Any:
        """The network's own, at which nnU-Net switches deep supervision on and off."""
        return self.network.decoder

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """The network's outputs, nested.

        Raises:
            RuntimeError: If nobody said which region lies in which.
        """
        if self.parents is None:
            raise RuntimeError(
                "the network does not know which region lies in which: it is set by the trainer's "
                "initialize(), or loaded with a model's weights"
            )
        outputs = self.network(x)
        if isinstance(outputs, list | tuple):
            return [nested_odds(each, self.parents) for each in outputs]
        return nested_odds(outputs, self.parents)

    def get_extra_state(self) -> dict[str, Any]:
        """The parents, for the checkpoint."""
        return {"parents_of_regions": self.parents}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """The parents, from the checkpoint."""
        self.parents = state["parents_of_regions"]


class NestedRegionsMixin(TrainerMixin):
    """Makes the regions of any nnU-Net trainer nested: no core outside its tumour.

    Each channel is then the question whether a voxel of a region lies in the next one, and trained
    as nnU-Net trains regions: by Dice and binary cross entropy of every region. It goes in front of
    other trainers and mixins; plans, labels and prediction stay nnU-Net's.
    """

    # What nnU-Net's trainers have.
    network: Any
    dataset_json: dict[str, Any]

    @classmethod
    def build_network_architecture(
        cls, plans_manager: Any, configuration_manager: Any, *arguments: Any, **options: Any
    ) -> NestedNetwork:
        """nnU-Net's, with nested outputs."""
        network = super().build_network_architecture(  # type: ignore[misc]
            plans_manager, configuration_manager, *arguments, **options
        )
        return NestedNetwork(network)

    def initialize(self) -> None:
        """nnU-Net's, and the network learns which region lies in which.

        Raises:
            ValueError: If the dataset has no regions, or they are no tree.
        """
        parents = parents_of_regions(self.dataset_json)
        super().initialize()  # type: ignore[misc]
        for module in self.network.modules():  # it may be compiled, or in DistributedDataParallel
            if isinstance(module, NestedNetwork):
                module.parents = parents
