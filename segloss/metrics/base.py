"""What the metrics have in common: a number for every mask of a batch, kept and reduced by MONAI."""

from abc import abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config import TensorOrList
from monai.metrics import CumulativeIterationMetric, do_metric_reduction
from monai.utils import MetricReduction, convert_to_numpy
from torch import Tensor

__all__ = ["Mask", "MaskMetric", "Metric"]

Mask = npt.NDArray[np.bool_]


class Metric(CumulativeIterationMetric):
    """Keeps a row of numbers for every sample until they are reduced. Abstract."""

    def __init__(self, reduction: MetricReduction | str, get_not_nans: bool) -> None:
        super().__init__()
        self.reduction = MetricReduction(reduction)
        self.get_not_nans = get_not_nans

    def aggregate(
        self, reduction: MetricReduction | str | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Reduce the values of all batches since the last `reset`.

        Args:
            reduction: Instead of the one given to the constructor.

        Returns:
            The reduced values and, with ``get_not_nans``, how many counted. ``"none"`` gives one
            per sample and class, (B, C), or per sample, (B, 1).

        Raises:
            ValueError: There was no batch.
        """
        scores = self.get_buffer()  # type: ignore[no-untyped-call]
        if scores is None:
            raise ValueError("there is nothing to aggregate: call the metric on a batch first")
        reduced, counted = do_metric_reduction(scores, reduction or self.reduction)
        return (reduced, counted) if self.get_not_nans else reduced


class MaskMetric(Metric):
    """Compares predicted with true masks, one class of one sample at a time. Abstract.

    Args:
        include_background: Whether channel 0 counts. It always does where it is the only one.
        reduction: How `aggregate` reduces samples and classes, as in MONAI: ``"none"``,
            ``"mean"``, ``"sum"``, ``"mean_batch"``, ``"sum_batch"``, ``"mean_channel"`` or
            ``"sum_channel"``. NaN does not count.
        get_not_nans: Have `aggregate` return how many values counted, too.
    """

    def __init__(
        self,
        *,
        include_background: bool = False,
        reduction: MetricReduction | str = MetricReduction.MEAN,
        get_not_nans: bool = False,
    ) -> None:
        super().__init__(reduction, get_not_nans)
        self.include_background = include_background

    @abstractmethod
    def score(self, pred: Mask, true: Mask) -> float:
        """Compare one mask with another of the same shape."""

    def _compute_list(
        self, y_pred: TensorOrList, y: TensorOrList | None = None, **kwargs: Any
    ) -> Any:
        if y is not None and len(y_pred) != len(y):
            raise ValueError(f"y_pred holds {len(y_pred)} samples and y {len(y)}, expected as many")
        return super()._compute_list(y_pred, y, **kwargs)

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        if y is None:
            raise ValueError("y, the true masks, is missing")
        if y_pred.shape != y.shape or y.ndim not in (4, 5):
            raise ValueError(
                f"y_pred has shape {tuple(y_pred.shape)} and y {tuple(y.shape)}, expected twice "
                "the same (B, C, H, W) or (B, C, H, W, D): make both one-hot, for example with "
                "monai.transforms.AsDiscrete(argmax=True, to_onehot=C) and AsDiscrete(to_onehot=C)"
            )
        first = 0 if self.include_background or y.shape[1] == 1 else 1
        pairs = zip(_masks("y_pred", y_pred[:, first:]), _masks("y", y[:, first:]), strict=True)
        scores = [
            [self.score(p, t) for p, t in zip(preds, trues, strict=True)] for preds, trues in pairs
        ]
        return torch.tensor(scores, dtype=torch.float32, device=y_pred.device)


def _masks(name: str, tensor: Tensor) -> Mask:
    masks = tensor != 0
    if (masks != tensor).any():
        raise ValueError(
            f"{name} must hold only 0 and 1, got values from {tensor.min():g} to "
            f"{tensor.max():g}: binarise it first, for example with monai.transforms.AsDiscrete"
        )
    return np.asarray(convert_to_numpy(masks))
