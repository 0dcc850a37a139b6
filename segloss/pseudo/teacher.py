"""The teacher: a slowly moving average of the network that learns."""

import copy
from itertools import chain
from typing import Any, Literal, final, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from segloss.arguments import fraction, one_of

__all__ = ["Buffers", "EMATeacher"]

Buffers = Literal["copy", "average", "skip"]


@final
class EMATeacher(nn.Module):
    r"""An exponential moving average of a network, whose predictions become pseudo-labels.

    After t updates the next one makes of the teacher's parameters and the student's

    .. math:: \theta \leftarrow \alpha \theta + (1 - \alpha) \theta_{student},
        \qquad \alpha = \min(1 - 1/(t + 1), \text{decay})

    so that the first copies the student, and the next few are plain averages. The teacher is a deep
    copy of the student without DistributedDataParallel and torch.compile around it. It stays in
    evaluation mode whatever is asked of it, and no gradient flows through it. Its ``state_dict``
    holds the number of updates too: training that is resumed goes on as if nothing had happened.

    Args:
        student: The network. Its parameters must be float32 or wider, as they are under autocast:
            an average that moves by a thousandth a step would stand still in half precision.
        decay: The largest α, 0 to 1.
        warm_up: Begin with the plain averages; otherwise α is always ``decay``.
        buffers: What becomes of the student's buffers, which are the running statistics of batch
            normalisation: ``"copy"`` them, ``"average"`` them as the parameters (those that are no
            floats are copied), or ``"skip"`` them and keep those of the beginning.

    Attributes:
        module: The averaged network.
        updates: How many updates there were.

    References:
        Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017.

    Example:
        >>> student = nn.Conv2d(1, 2, 3, padding=1)
        >>> teacher = EMATeacher(student, decay=0.99)
        >>> # ... an optimizer changes the student, and then, on every rank,
        >>> teacher.update(student)
        >>> teacher(torch.zeros(1, 1, 8, 8)).requires_grad
        False
    """

    updates: Tensor

    def __init__(
        self,
        student: nn.Module,
        *,
        decay: float = 0.999,
        warm_up: bool = True,
        buffers: Buffers = "copy",
    ) -> None:
        super().__init__()
        self.decay = fraction("decay", decay)
        self.warm_up = warm_up
        self.buffers_are: Buffers = one_of("buffers", buffers, get_args(Buffers))
        self.module = copy.deepcopy(_plain(student)).requires_grad_(False)
        parameters = list(self.module.parameters())
        for name, x in self.module.named_parameters():
            if x.is_floating_point() and torch.finfo(x.dtype).bits < 32:
                raise ValueError(
                    f"the student's parameter {name} is {x.dtype}, too coarse for an average: keep "
                    "the parameters in float32, and use torch.autocast for speed"
                )
        device = parameters[0].device if parameters else None
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64, device=device))
        self.train()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the averaged network says, without gradients."""
        with torch.no_grad():
            return self.module(*args, **kwargs)

    def train(self, mode: bool = True) -> "EMATeacher":
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """Move towards the student: after each step of the optimizer, on every rank.

        Ranks of a DistributedDataParallel agree on the parameters but, after a step, not on the
        buffers; the teachers take those of rank 0, as the students will at their next step.

        Raises:
            ValueError: The student's parameters or buffers have other names or shapes.
        """
        plain = _plain(student)
        parameters = _pairs("parameter", self.module.named_parameters(), plain.named_parameters())
        buffers = _pairs("buffer", self.module.named_buffers(), plain.named_buffers())
        share = self._student_share()
        averaged = parameters + (buffers if self.buffers_are == "average" else [])
        for own, new in averaged:
            if own.is_floating_point() or own.is_complex():
                own.lerp_(new, share.to(own))
            else:
                own.copy_(new)
        if self.buffers_are == "copy":
            for own, new in buffers:
                own.copy_(new)
        if self.buffers_are != "skip":
            _share_buffers([own for own, _ in buffers], student)
        self.updates += 1

    def extra_repr(self) -> str:
        """The options."""
        return f"decay={self.decay}, warm_up={self.warm_up}, buffers={self.buffers_are!r}"

    def _student_share(self) -> Tensor:
        """1 - α, on the device: it must not wait for the number of updates."""
        constant = self.updates.new_full((), 1 - self.decay, dtype=torch.float32)
        return torch.maximum(1 / (self.updates + 1), constant) if self.warm_up else constant


def _plain(model: nn.Module) -> nn.Module:
    """The network inside what trains it on several devices and what compiles it."""
    while True:
        if isinstance(model, DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif "_orig_mod" in model._modules:  # torch.compile's wrapper
            model = model.get_submodule("_orig_mod")
        else:
            return model


def _pairs(kind: str, own: Any, new: Any) -> list[tuple[Tensor, Tensor]]:
    """The tensors of the same name, of the teacher and of the student."""
    mine, theirs = dict(own), dict(new)
    for name in chain(mine, theirs):
        shapes = [tuple(x[name].shape) if name in x else None for x in (mine, theirs)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{kind} {name} has shape {shapes[0]} in the teacher and {shapes[1]} in the "
                "student: update it with the network it was made from"
            )
    return [(x, theirs[name]) for name, x in mine.items()]


def _share_buffers(buffers: list[Tensor], student: nn.Module) -> None:
    """Give every rank the buffers of rank 0, if the student's ranks do the same."""
    parallel = next((m for m in student.modules() if isinstance(m, DistributedDataParallel)), None)
    if parallel is None or not parallel.broadcast_buffers:
        return
    source = dist.get_global_rank(parallel.process_group, 0)
    for dtype in dict.fromkeys(x.dtype for x in buffers):  # one message for each type
        alike = [x for x in buffers if x.dtype == dtype]
        joined = torch.cat([x.flatten() for x in alike])
        dist.broadcast(joined, source, group=parallel.process_group)
        for own, new in zip(alike, joined.split([x.numel() for x in alike]), strict=True):
            own.copy_(new.view_as(own))
