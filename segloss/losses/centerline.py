"""Centrelines: does the prediction cover the target's skeleton?"""

from typing import final

from typing_extensions import Unpack

from segloss.encoding import Encoding, Multiclass
from segloss.losses.base import RegionOptions, ScoreLoss, Sums, ratio
from segloss.shapes import Scores

__all__ = ["SkeletonRecallLoss", "skeleton_recall"]


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
