"""Consistency: the student is to say of an image what its teacher says of it, voxel by voxel.

The squared difference of probabilities is one of the engine's sums, with the teacher's
probabilities as memberships: a pass keeps the student's logits and these, nothing else.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from segloss.arguments import not_negative, whole
from segloss.compose import Weight, a_weight
from segloss.encoding import Encoding, Multiclass, Multilabel, expect_shape
from segloss.engine.groups import Group
from segloss.engine.sums import Request
from segloss.losses.base import Loss, Sums, ratio, reduced
from segloss.pseudo.ramps import SigmoidRamp
from segloss.shapes import Logits, Map, Reduced

__all__ = [
    "ConsistencyLoss",
    "UncertaintyAwareConsistencyLoss",
    "monte_carlo_entropy",
    "not_void",
]


@final
class ConsistencyLoss(nn.Module):
    r"""The mean squared difference between the student's and the teacher's probabilities: 0 to 1.

    .. math:: \frac{\sum w (p_{student} - p_{teacher})^2}{C \sum w}

    The mean runs over classes too, as in SSL4MIS: frameworks that sum over them weigh this term C
    times as much. Only the student gets a gradient. Labelled images may take part or not: pass
    those that are to.

    Args:
        encoding: Softmax or sigmoids, `segloss.Multiclass` or `segloss.Multilabel`. Without its
            background, the mean leaves channel 0 out. A teacher ignores nothing, so ``ignore`` has
            no say here: pass ``void``.
        group: The mean runs over each ``"sample"``, the ``"batch"``, or all ``"ranks"``' batches.

    References:
        Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017.

    Example:
        >>> student, teacher = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
        >>> teacher[:, 1] = 1e4
        >>> ConsistencyLoss()(student, teacher)
        tensor(0.2500)
    """

    def __init__(self, encoding: Encoding = Multiclass(), *, group: Group = "batch") -> None:
        super().__init__()
        self.squared_error = _SquaredError(_activated(encoding), group=group)

    def forward(
        self, student_logits: Logits, teacher_logits: Tensor, *, void: Map | None = None
    ) -> Reduced:
        """The loss of a batch, in float32 or wider.

        Args:
            student_logits: ``(b, c, *space)``.
            teacher_logits: The same shape.
            void: ``(b, *space)`` bool; the voxels that do not count. If none does, the loss is 0.
        """
        _expect_alike("teacher_logits", teacher_logits, student_logits)
        target = _probability(self.squared_error.encoding, teacher_logits)
        weight = {} if void is None else {"weight": not_void(void, student_logits)}
        value: Tensor = self.squared_error(student_logits, target, **weight)
        return value


@final
class UncertaintyAwareConsistencyLoss(nn.Module):
    r"""`ConsistencyLoss` over the voxels of which the teacher is certain: 0 to 1.

    Certain is a voxel with :math:`U < h(t) \ln C`, where U is the `monte_carlo_entropy` and h rises
    from 0.75 to 1, so that in the end only voxels at chance are left out. The authors' code has
    :math:`\ln 2` and divides by 2, which is the same for two classes. For more of them it admits
    too few voxels, and weighs these too much: here it is :math:`\ln C` and C. With
    `segloss.Multilabel` each channel is a question of its own with two answers, by our reading, and
    certain or not by itself.

    Args:
        encoding: See `ConsistencyLoss`.
        certainty: h, a number or a schedule over the iterations; call `step` after each. The
            authors ramp it up over all 6000 of theirs.
        group: See `ConsistencyLoss`.

    Attributes:
        iteration: How often `step` was called; part of the ``state_dict``.
        kept: After a call, the share of the voxels that was certain (of those not void).

    References:
        Yu et al., "Uncertainty-aware self-ensembling model for semi-supervised 3D left atrium
        segmentation", MICCAI 2019; the formula as in the authors' code.

    Example:
        >>> teacher = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Dropout2d(0.5))
        >>> image = torch.zeros(1, 1, 4, 4)
        >>> entropy = monte_carlo_entropy(teacher, image)
        >>> loss = UncertaintyAwareConsistencyLoss()
        >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), entropy)
        tensor(0.)
        >>> loss.step()
    """

    def __init__(
        self,
        encoding: Encoding = Multiclass(),
        *,
        certainty: Weight = SigmoidRamp(0.75, 1.0, 6000),  # noqa: B008
        group: Group = "batch",
    ) -> None:
        super().__init__()
        self.squared_error = _SquaredError(_activated(encoding), group=group)
        self.certainty = a_weight("certainty", certainty)
        self.iteration = 0
        self.kept = torch.tensor(math.nan)

    def forward(
        self,
        student_logits: Logits,
        teacher_logits: Tensor,
        entropy: Map,
        *,
        void: Map | None = None,
    ) -> Reduced:
        """The loss of a batch, in float32 or wider.

        Args:
            student_logits: ``(b, c, *space)``.
            teacher_logits: The same shape: one more pass of the teacher, as the authors have it,
                not the mean of those that gave the entropy.
            entropy: Of `monte_carlo_entropy`, in nats.
            void: ``(b, *space)`` bool; the voxels that do not count. If none is left, the loss is
                0.
        """
        _expect_alike("teacher_logits", teacher_logits, student_logits)
        encoding = self.squared_error.encoding
        b, c, *space = student_logits.shape
        softmax = isinstance(encoding, Multiclass)
        expect_shape("entropy", entropy, (b, *space) if softmax else (b, c, *space))
        share = self.certainty(self.iteration) if callable(self.certainty) else self.certainty
        certain = entropy < share * math.log(c if softmax else 2)
        counted = torch.ones_like(certain)
        if void is not None:
            counts = not_void(void, student_logits)
            counted = counted & (counts if softmax else counts[:, None])
        certain = certain & counted
        self.kept = ratio(certain.sum().float(), counted.sum().float())
        target = _probability(encoding, teacher_logits)
        value: Tensor = self.squared_error(student_logits, target, weight=certain)
        return value

    def step(self) -> None:
        """Say that an iteration is over."""
        self.iteration += 1

    def get_extra_state(self) -> dict[str, int]:
        """The number of iterations done, for the ``state_dict``."""
        return {"iteration": self.iteration}

    def set_extra_state(self, state: Any) -> None:
        """Restore the number of iterations done."""
        self.iteration = int(state["iteration"])

    def extra_repr(self) -> str:
        """The schedule."""
        return f"certainty={self.certainty}"


@torch.no_grad()
def monte_carlo_entropy(
    network: nn.Module,
    image: Tensor,
    encoding: Encoding = Multiclass(),
    *,
    passes: int = 8,
    noise: float = 0.1,
) -> Map:
    r"""How uncertain a network is: the entropy of its mean prediction over perturbed passes.

    Each pass drops out and sees the image with noise of its own, cut off at twice its deviation.
    Both come from PyTorch's global generator. Layers of dropout, and no others, are in training
    mode meanwhile, so that an `EMATeacher` may stay in evaluation mode.

    Args:
        network: Gives logits ``(b, c, *space)``; the teacher.
        image: What it takes, in intensities for which ``noise`` is small.
        encoding: Softmax or sigmoids.
        passes: How many; the probabilities of one at a time are in memory, and their sum.
        noise: Its standard deviation.

    Returns:
        In nats, without gradient: ``(b, *space)``, 0 to ln C, for `segloss.Multiclass`; for
        `segloss.Multilabel`, of each channel's yes or no, ``(b, c, *space)``, 0 to ln 2.

    Example:
        >>> network = nn.Conv2d(1, 2, 1)
        >>> _ = nn.init.zeros_(network.weight), nn.init.zeros_(network.bias)
        >>> monte_carlo_entropy(network, torch.zeros(1, 1, 1, 2))
        tensor([[[0.6931, 0.6931]]])
    """
    passes = whole("passes", passes)
    noise = not_negative("noise", noise)
    encoding = _activated(encoding)
    dropout = [m for m in network.modules() if isinstance(m, _DropoutNd) and not m.training]
    total: Tensor | None = None
    for layer in dropout:
        layer.training = True
    try:
        for _ in range(passes):
            shift = noise * torch.randn_like(image)
            logits = network(image + shift.clamp_(-2 * noise, 2 * noise))
            probability = _probability(encoding, logits)
            total = probability if total is None else total.add_(probability)
    finally:
        for layer in dropout:
            layer.training = False
    assert total is not None
    mean = total / passes
    softmax = isinstance(encoding, Multiclass)
    entropy: Tensor = torch.special.entr(mean)
    return entropy.sum(1) if softmax else entropy + torch.special.entr(1 - mean)


def not_void(void: Map, logits: Logits) -> Map:
    """Where voxels count."""
    if void.dtype != torch.bool:
        raise TypeError(
            f"void has dtype {void.dtype}, expected bool: True at the voxels that do not count"
        )
    expect_shape("void", void, (logits.shape[0], *logits.shape[2:]))
    return ~void


@final
class _SquaredError(Loss):
    """The mean of (p - y)² over the entries that count, with y the target's memberships."""

    def __init__(self, encoding: Encoding, *, group: Group) -> None:
        super().__init__(encoding, group=group, class_weight=None, reduction="mean")

    @property
    def request(self) -> Request:
        return Request(("error^2", "count"))

    def reduce(self, regions: Sums, voxels: Sequence[Tensor]) -> Reduced:
        mean = ratio(regions["error^2"].sum(1), regions["count"].sum(1))
        return reduced(mean, self.reduction)


def _activated(encoding: Encoding) -> Multiclass | Multilabel:
    """The encoding without an ignore label, for which memberships have no room."""
    if not isinstance(encoding, Multiclass | Multilabel):
        raise TypeError(
            f"encoding must be Multiclass() or Multilabel(), got {encoding!r}: consistency compares "
            "the probabilities of the channels"
        )
    return replace(encoding, ignore=None)


def _probability(encoding: Encoding, logits: Logits) -> Tensor:
    """What the teacher takes for certain; single precision or more, and no gradient."""
    exact = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    return exact.softmax(1) if isinstance(encoding, Multiclass) else exact.sigmoid()


def _expect_alike(name: str, logits: Tensor, student_logits: Tensor) -> None:
    if logits.shape != student_logits.shape:
        raise ValueError(
            f"{name} has shape {tuple(logits.shape)}, expected the student's, "
            f"{tuple(student_logits.shape)}"
        )
