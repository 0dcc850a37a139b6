"""Centrelines: does the prediction cover the target's skeleton, and the target the prediction's?"""

import warnings
from collections.abc import Mapping
from typing import ClassVar, final

from typing_extensions import Unpack

from segloss.arguments import whole
from segloss.encoding import Encoded, Encoding, Multiclass
from segloss.engine.block import Block
from segloss.engine.probability import measured
from segloss.engine.soft_skeleton import SoftSkeletonSums, outlasts
from segloss.losses.base import RegionOptions, ScoreLoss, Sums, ratio
from segloss.shapes import Scores

__all__ = ["CenterlineDiceLoss", "SkeletonRecallLoss", "centerline_dice", "skeleton_recall"]

HARD_SKELETON = (
    'batch["skeleton_label"], made by segloss.transforms.TubedSkeletond("label", radius=0)'
)


def skeleton_recall(sums: Sums, smooth_nr: float = 1e-5, smooth_dr: float = 1e-5) -> Scores:
    r"""One minus the soft recall of a skeleton.

    .. math:: 1 - \frac{\sum w p s + \epsilon_n}{\sum w s + \epsilon_d}

    Args:
        sums: ``pred*skeleton`` and ``skeleton``, each ``(g, k)``.
        smooth_nr: :math:`\epsilon_n`, in voxels.
        smooth_dr: :math:`\epsilon_d`, in voxels.

    Returns:
        ``(g, k)``, from 0 to 1.

    Example:
        >>> import torch
        >>> one = torch.ones(1, 1)
        >>> skeleton_recall({"pred*skeleton": 3 * one, "skeleton": 4 * one})
        tensor([[0.2500]])
    """
    return 1 - ratio(sums["pred*skeleton"] + smooth_nr, sums["skeleton"] + smooth_dr)


def centerline_dice(sums: Sums, smooth_nr: float = 1e-5, smooth_dr: float = 1e-5) -> Scores:
    r"""One minus the harmonic mean of the precision and the recall of centrelines.

    .. math::

        1 - \frac{2 P R}{P + R}, \quad
        P = \frac{\sum w S(p) y + \epsilon_n}{\sum w S(p) + \epsilon_d}, \quad
        R = \frac{\sum w p s + \epsilon_n}{\sum w s + \epsilon_d}

    with S(p) the soft skeleton of the prediction, and s the skeleton of the target.

    Args:
        sums: ``pred_skeleton``, ``pred_skeleton*true``, ``pred*skeleton`` and ``skeleton``, each
            ``(g, k)``.
        smooth_nr: :math:`\epsilon_n`, in voxels.
        smooth_dr: :math:`\epsilon_d`, in voxels.

    Returns:
        ``(g, k)``, from 0 to 1.

    Example:
        >>> import torch
        >>> one = torch.ones(1, 1)
        >>> names = ["pred_skeleton", "pred_skeleton*true", "pred*skeleton", "skeleton"]
        >>> centerline_dice(dict(zip(names, [2 * one, one, one, one])))
        tensor([[0.3333]])
    """
    precision = ratio(sums["pred_skeleton*true"] + smooth_nr, sums["pred_skeleton"] + smooth_dr)
    recall = ratio(sums["pred*skeleton"] + smooth_nr, sums["skeleton"] + smooth_dr)
    return 1 - ratio(2 * precision * recall, precision + recall)


@final
class SkeletonRecallLoss(ScoreLoss):
    """`segloss.skeleton_recall` of logits: from 0 (every skeleton covered) to 1.

    False positives cost nothing here, so add it to a loss that counts them. A class without a
    skeleton in a group scores 0, with no gradient: nothing was asked for.

    Takes the map ``skeleton=``: class labels, ``(b, *space)`` or ``(b, 1, *space)`` with 0 off the
    skeletons, or one channel for each class, of `segloss.transforms.TubedSkeletond`.

    Args:
        encoding: What the channels mean. A background has no centreline; by default it is left out.
        **options: Those of `segloss.RegionLoss`; a class is absent where it has no skeleton.

    References:
        Kirchhoff et al., "Skeleton Recall Loss for Connectivity Conserving and Resource Efficient
        Segmentation of Thin Tubular Structures", ECCV 2024. The authors return minus the recall,
        of the batch, with 1 for both smoothings.

    Example:
        >>> import torch
        >>> logits, skeleton = torch.zeros(1, 2, 4, 4), torch.eye(4).long()[None]
        >>> SkeletonRecallLoss()(logits, skeleton, skeleton=skeleton)
        tensor(0.5000)
    """

    needs = ("pred*skeleton", "skeleton")
    presence = "skeleton"

    def __init__(
        self,
        encoding: Encoding = Multiclass(background=False),
        **options: Unpack[RegionOptions],
    ) -> None:
        super().__init__(encoding, **options)

    def score(self, sums: Sums) -> Scores:
        return skeleton_recall(sums, self.smooth_nr, self.smooth_dr)


@final
class CenterlineDiceLoss(ScoreLoss):
    """`segloss.centerline_dice` of logits, also known as clDice: from 0 to 1.

    Says little of a tube's width, so add it to `segloss.DiceLoss`. It takes far longer than other
    losses, most of it for the soft skeleton of the prediction: `segloss.SkeletonRecallLoss` needs
    none. Nothing but the logits is kept for the gradient, which is computed in slabs of a few times
    ``iterations`` rows: at (1, 2, 96³) a step on the CPU, in two threads, peaks at 4 times the memory
    of the logits with 3 iterations, and at 9 times with 10. It can be differentiated once, and
    torch.compile leaves it as it is.

    Takes the map ``skeleton=``: class labels, ``(b, *space)`` or ``(b, 1, *space)`` with 0 off the
    skeletons, or one channel for each class, of `segloss.transforms.TubedSkeletond` with
    ``radius=0``, which makes a hard skeleton. Voxels that are ignored, or weigh 0, are beyond the
    border for the soft skeleton too: neither edge nor gap begins there.

    Args:
        encoding: What the channels mean. A background has no centreline; by default it is left out.
        iterations: How often the prediction is eroded to find its centreline: at least the largest
            radius of a tube, in voxels. **With fewer, wide tubes have no centreline and no gradient
            here.** On the CPU there is a warning when a target's class outlasts its erosions; on a
            GPU, where one would have to wait for the answer, there is none.
        **options: Those of `segloss.RegionLoss`; a class is absent where it has no skeleton.

    References:
        Shit et al., "clDice - a novel topology-preserving loss function for tubular structure
        segmentation", CVPR 2021. There the target's skeleton is soft too, and both smoothings are
        1.

    Example:
        >>> import torch
        >>> label = torch.zeros(1, 5, 6, dtype=torch.long)
        >>> label[:, 2] = 1
        >>> found = torch.where(label == 1, 9.0, -9.0)
        >>> found[:, :, 3:] = -9.0
        >>> logits = torch.stack([-found, found], 1)
        >>> CenterlineDiceLoss(iterations=3)(logits, label, skeleton=label)
        tensor(0.3333)
    """

    needs = ("pred*skeleton", "skeleton")
    presence = "skeleton"
    compiles = False
    makers: ClassVar[Mapping[str, str]] = {"skeleton": HARD_SKELETON}

    def __init__(
        self,
        encoding: Encoding = Multiclass(background=False),
        *,
        iterations: int = 10,
        **options: Unpack[RegionOptions],
    ) -> None:
        super().__init__(encoding, **options)
        self.iterations = whole("iterations", iterations, 0)

    def own_sums(self, encoded: Encoded, space: tuple[int, ...]) -> Sums:
        first = self.encoding.first
        warn_of_wide_tubes(encoded, space, self.iterations, first)
        return soft_skeleton_sums(encoded, space, self.iterations, first)

    def score(self, sums: Sums) -> Scores:
        return centerline_dice(sums, self.smooth_nr, self.smooth_dr)


def soft_skeleton_sums(
    encoded: Encoded, space: tuple[int, ...], iterations: int, first: int
) -> Sums:
    """The sums over the soft skeleton of the prediction, of the nodes from the first scored one on."""
    measure = SoftSkeletonSums(iterations, space, first, encoded.nodes)
    skeleton, overlap = measured(encoded, measure).unbind(1)
    return {"pred_skeleton": skeleton, "pred_skeleton*true": overlap}


def warn_of_wide_tubes(
    encoded: Encoded, space: tuple[int, ...], iterations: int, first: int
) -> None:
    """Warn of a class of the target, from the first one on, that has no soft skeleton.

    Only on the CPU: on a GPU one would have to wait for the answer.
    """
    if encoded.logits.device.type != "cpu":
        return
    for sample in range(len(encoded.logits)):
        block = Block(encoded, (slice(sample, sample + 1), slice(None)))
        true = block.weighted(block.true)[0]
        for node in range(first, encoded.nodes):
            if outlasts(true[node].view(space) > 0, iterations + 1):
                warnings.warn(
                    f"class {node} of the target is wider than iterations={iterations} erosions "
                    "reach: there the prediction gets no centreline, and its precision no gradient; "
                    "raise iterations to the largest radius, in voxels",
                    stacklevel=2,
                )
                return
