"""Weights of a compound's terms that adapt while training."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.linalg import vector_norm

from segloss.arguments import fraction, whole
from segloss.catalogue import CATALOGUE
from segloss.compose import CompoundLoss
from segloss.losses.base import ratio
from segloss.shapes import Logits, Map, Reduced, Target

__all__ = ["GradientNormBalance", "UncertaintyWeighting"]


class _Balance(nn.Module, ABC):
    """The terms of a compound, computed by it in one pass, and put together in another way."""

    def __init__(self, loss: CompoundLoss) -> None:
        super().__init__()
        if not isinstance(loss, CompoundLoss):
            raise TypeError(f"loss must be a CompoundLoss, got {type(loss).__name__}")
        for name, term in loss.losses.items():
            if term.reduction == "none":
                raise ValueError(f"the term {name!r} has reduction='none': it has many values")
        self.loss = loss

    @property
    def terms(self) -> dict[str, Tensor]:
        """After a call, the value of each loss, detached and without its weight, for logging."""
        return self.loss.terms

    @property
    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """By what each loss is multiplied at present, detached, for logging."""

    def step(self) -> None:
        """Say that an epoch is over, to the compound's schedules."""
        self.loss.step()

    def _by_name(self, numbers: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.loss.losses, numbers.detach().unbind(), strict=True))

    def _weighted(self, numbers: Tensor) -> Tensor:
        """The numbers, one for each term, times the compound's weights.

        As a tensor the weights would be copied to the GPU, and the copy waited for.
        """
        given = self.loss.weights.values()
        return torch.stack([w * x for w, x in zip(given, numbers.unbind(), strict=True)])


@final
class UncertaintyWeighting(_Balance):
    r"""Weights that are learned with the network: each term is divided by its own level.

    .. math:: \sum_i w_i \left(\tfrac{1}{2} e^{-s_i} L_i + \tfrac{1}{2} s_i\right)

    with a parameter :math:`s_i` for each term, 0 at first, and the compound's weights w. At its
    optimum :math:`e^{s_i} = L_i`, and the sum is that of :math:`\tfrac{1}{2} w_i (1 + \log L_i)`:
    whatever its unit, a term pulls by how much of itself it could still lose. So a factor within a
    loss is of no consequence, and its weight w is an exponent. The value falls below 0 when the
    terms do below 1; look at ``terms``.

    **Give the parameters to the optimiser too, without weight decay**, which would pull the weights
    to a half: ``AdamW([{"params": network.parameters()}, {"params": loss.parameters(),
    "weight_decay": 0}])``. Move the module to the network's device. Under DistributedDataParallel it
    must be part of the wrapped module, or each rank's weights go their own way.

    Args:
        loss: The compound. Its terms must not go below 0, where no level divides them.

    Attributes:
        terms: After a call, the value of each loss, detached and without its weight, for logging.
        weights: :math:`\tfrac{1}{2} w_i e^{-s_i}` of each loss, detached.

    Raises:
        ValueError: If a term can be negative, such as `segloss.BoundaryLoss`.

    References:
        Kendall, Gal and Cipolla, "Multi-task learning using uncertainty to weigh losses for scene
        geometry and semantics", CVPR 2018, in its form for regression; s is the log variance. That
        the compound's weights multiply both halves is ours.

    Example:
        >>> import torch
        >>> from segloss import CrossEntropyLoss, DiceLoss
        >>> loss = UncertaintyWeighting(DiceLoss() + CrossEntropyLoss())
        >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
        tensor(0.6799, grad_fn=<SumBackward0>)
        >>> loss.weights
        {'dice': tensor(0.5000), 'cross_entropy': tensor(0.5000)}
    """

    def __init__(self, loss: CompoundLoss) -> None:
        super().__init__(loss)
        for name, term in loss.losses.items():
            entry = next((x for x in CATALOGUE.values() if x.loss is type(term)), None)
            if entry is not None and entry.negative:
                raise ValueError(
                    f"the term {name!r} is a {entry.loss_name}, which can be negative: its weight "
                    "would grow without end. Leave it out, and add it with a weight of your own"
                )
        self.log_variance = nn.Parameter(torch.zeros(len(loss.losses)))

    @property
    def weights(self) -> dict[str, Tensor]:
        return self._by_name(self._weighted((-self.log_variance).exp() / 2))

    def forward(self, input: Logits, target: Target, **maps: Map) -> Reduced:
        """The sum; takes the maps that the compound's losses need."""
        values = torch.stack(list(self.loss.values(input, target, maps).values()))
        s = self.log_variance.to(values)
        return self._weighted(((-s).exp() * values + s) / 2).sum()


@final
class GradientNormBalance(_Balance):
    r"""Weights by which the terms' gradients at the logits keep a given ratio.

    .. math:: \sum_i \lambda_i L_i, \qquad
        \lambda_i = \frac{\sum_j w_j}{\sum_j w_j / n_j} \cdot \frac{w_i}{n_i}

    with the compound's weights w, and :math:`n_i` a running mean of the norm of the i-th term's
    gradient by the logits. So :math:`\lambda_i n_i` is to :math:`\lambda_j n_j` as :math:`w_i` to
    :math:`w_j`: ``2 * DiceLoss() + CrossEntropyLoss()`` lets the overlap pull twice as hard as the
    voxels, whatever the scales of the two. Their weights add up to those of the compound.

    The norms are measured at the first call and at each ``every``-th from there, on the logits
    alone, without the network: one more forward pass of the compound, and a backward pass for each
    of its terms. A term without any gradient at such a call (its class is absent) keeps its norm,
    and one never measured counts as the mean of the others. Measuring never waits for a GPU. It is
    left out in evaluation mode and where the logits want no gradient. The norms are part of the
    ``state_dict``. With a process group they are those of all ranks together, so that every rank has
    the same weights; every rank must then make the same calls. In a `segloss.DeepSupervisionLoss`
    each scale is a call: the default of ``every`` lets the scales take turns.

    A term whose gradient fades as it is fulfilled is kept at its ratio all the same, by a growing
    weight. A term that acts now and then, such as `segloss.BettiMatchingLoss`, is balanced at the
    calls at which it does, and measuring is one of its steps.

    Args:
        loss: The compound. Its weights are the ratio; they may be schedules.
        every: How many calls from one measurement to the next, at least 1.
        momentum: What a measurement counts for in the running mean at the next one, which counts
            for 1: from 0, the newest only, to 1, all alike.

    Attributes:
        terms: After a call, the value of each loss, detached and without its weight, for logging.
        weights: :math:`\lambda_i` of each loss, detached.

    References:
        After Chen et al., "GradNorm: gradient normalization for adaptive loss balancing in deep
        multitask networks", ICML 2018, of which this is a simpler relative of our own: the norms are
        taken at the logits rather than in the last shared layer, the weights follow from them in
        closed form rather than by gradient descent, and terms that train faster are not held back.

    Example:
        >>> import torch
        >>> from segloss import CrossEntropyLoss, DiceLoss
        >>> loss = GradientNormBalance(DiceLoss() + CrossEntropyLoss())
        >>> logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
        >>> loss(logits, torch.zeros(1, 4, 4, dtype=torch.long)).backward()
        >>> loss.weights
        {'dice': tensor(1.6364), 'cross_entropy': tensor(0.3636)}
    """

    norms: Tensor

    def __init__(self, loss: CompoundLoss, *, every: int = 11, momentum: float = 0.9) -> None:
        super().__init__(loss)
        self.every = whole("every", every)
        self.momentum = fraction("momentum", momentum)
        self._calls = 0
        # Running sums of the norms, and of the weights that they have in them.
        self.register_buffer("norms", torch.zeros(2, len(loss.losses)))

    @property
    def weights(self) -> dict[str, Tensor]:
        return self._by_name(self._balanced(self.norms))

    def forward(self, input: Logits, target: Target, **maps: Map) -> Reduced:
        """The weighted sum; takes the maps that the compound's losses need."""
        if self.training and torch.is_grad_enabled() and input.requires_grad:
            self._observe(input, target, maps)
        values = torch.stack(list(self.loss.values(input, target, maps).values()))
        return (self._balanced(self.norms.to(values)) * values).sum()

    def extra_repr(self) -> str:
        """The options."""
        return f"every={self.every}, momentum={self.momentum}"

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _observe(self, input: Tensor, target: Tensor, maps: Mapping[str, Tensor]) -> None:
        due = self._calls % self.every == 0
        self._calls += 1
        if not due:
            return
        # In single precision or more: unscaled gradients are too small for half.
        precise = torch.promote_types(input.dtype, torch.float32)
        logits = input.detach().to(precise).requires_grad_()
        values = self.loss.values(logits, target, maps).values()
        slopes = [torch.autograd.grad(v, logits, retain_graph=True)[0] for v in values]
        norms = torch.stack([vector_norm(slope) for slope in slopes]).to(torch.float32)
        if dist.is_available() and dist.is_initialized():
            norms = norms.square()
            dist.all_reduce(norms)
            norms = norms.sqrt()
        old = self.norms.to(norms.device)
        new = torch.stack((norms, torch.ones_like(norms)))
        usable = (norms > 0) & norms.isfinite()
        self.norms = torch.where(usable, self.momentum * old + new, old)

    def _balanced(self, norms: Tensor) -> Tensor:
        total, mass = norms
        seen = mass > 0
        norm = total / mass.where(seen, 1)
        norm = norm.where(seen, norm.sum() / seen.sum().clamp(min=1)).where(seen.any(), 1)
        inverse = self._weighted(norm.min() / norm)
        total = inverse.new_full((), sum(self.loss.weights.values()))
        return inverse * ratio(total, inverse.sum())
