"""nnU-Net's own Dice and cross entropy as terms of a one-pass compound."""

from typing import Any, NamedTuple

from torch import nn

from segloss.encoding import Multiclass, Multilabel
from segloss.engine.groups import Group
from segloss.losses.base import Loss
from segloss.losses.overlap import DiceLoss
from segloss.losses.voxelwise import CrossEntropyLoss
from segloss.nnunet.peer import DC_and_BCE_loss, DC_and_CE_loss, MemoryEfficientSoftDiceLoss

__all__ = ["Fused", "fused"]


class Fused(NamedTuple):
    """A sum of terms that exceeds nnU-Net's loss by a constant."""

    terms: dict[str, tuple[float, Loss]]
    excess: float
    """nnU-Net's Dice runs from -1 to 0, ours from 0 to 1."""


def fused(loss: nn.Module, classes: int) -> Fused:
    """The terms that add up to one of nnU-Net's compound losses, with its options.

    Args:
        loss: What nnU-Net's trainer built, without the wrapper for deep supervision.
        classes: Number of regions, if it is the loss of regions.

    Raises:
        TypeError: If it is another loss than nnU-Net's default ones, or has options beyond ours.
    """
    if not isinstance(loss, DC_and_CE_loss | DC_and_BCE_loss):
        raise _unknown(f"the trainer's loss is {type(loss).__name__}")
    dice = getattr(loss.dc, "_orig_mod", loss.dc)  # torch.compile wraps it
    if type(dice) is not MemoryEfficientSoftDiceLoss:
        raise _unknown(f"its Dice is {type(dice).__name__}")
    regions = isinstance(loss, DC_and_BCE_loss)
    group: Group = "sample" if not dice.batch_dice else "ranks" if dice.ddp else "batch"
    smooth: Any = {"smooth_nr": float(dice.smooth), "smooth_dr": float(dice.smooth)}
    entropy = loss.ce
    if getattr(entropy, "label_smoothing", 0) or getattr(entropy, "pos_weight", None) is not None:
        raise _unknown("its cross entropy has label_smoothing or pos_weight")
    weight = None if entropy.weight is None else entropy.weight.flatten().tolist()
    if regions:
        if weight is not None or not dice.do_bg:
            raise _unknown("its cross entropy has weights, or its Dice leaves out the first region")
        encoding = Multilabel()
        # With an ignore label nnU-Net divides by the voxels, without one by voxels and regions.
        factor = classes if loss.use_ignore_label else 1
        parts: list[tuple[str, float, Loss]] = [
            ("dice", loss.weight_dice, DiceLoss(encoding, group=group, **smooth)),
            ("cross_entropy", factor * loss.weight_ce, CrossEntropyLoss(encoding, group="batch")),
        ]
    else:
        ignore = loss.ignore_label
        scored = Multiclass(background=dice.do_bg, ignore=ignore)
        cross = CrossEntropyLoss(Multiclass(ignore=ignore), group="batch", class_weight=weight)
        parts = [
            ("dice", loss.weight_dice, DiceLoss(scored, group=group, **smooth)),
            ("cross_entropy", loss.weight_ce, cross),
        ]
    terms = {name: (float(weight), part) for name, weight, part in parts if weight}
    return Fused(terms, float(loss.weight_dice))


def _unknown(what: str) -> TypeError:
    return TypeError(
        f"fused replaces nnU-Net's Dice and cross entropy, but {what}: leave fused out, and the "
        "terms are added to the loss as it is"
    )
