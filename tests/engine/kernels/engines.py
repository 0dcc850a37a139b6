"""The same request to either engine, on the GPU if there is one, else in Triton's interpreter."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from segloss import backend
from segloss.engine.sums import Request, one_pass

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Given(NamedTuple):
    """What a loss is called with."""

    encoding: Any
    logits: Tensor
    target: Tensor
    maps: dict[str, Tensor]

    def moved(self) -> "Given":
        """The same where the kernels run, with the same strides."""
        maps = {name: x.to(DEVICE) for name, x in self.maps.items()}
        return self._replace(
            logits=self.logits.to(DEVICE), target=self.target.to(DEVICE), maps=maps
        )

    def double(self) -> "Given":
        """The same in double precision, memberships and maps too."""
        maps = {name: _double(x) for name, x in self.maps.items()}
        return self._replace(logits=self.logits.double(), target=_double(self.target), maps=maps)


def _double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def sums_and_gradient(engine: Any, given: Given, request: Request) -> tuple[Tensor, Tensor]:
    """All sums side by side, and the gradient of a sum of them in which no two weigh the same."""
    logits = given.logits.detach().requires_grad_()
    read = {name: x for name, x in given.maps.items() if name in request.maps | {"weight"}}
    with backend(engine):
        regions, voxels = one_pass(given.encoding.encode(logits, given.target, read), request)
    packed = torch.cat([*regions.values(), voxels.flatten(0, 1).T], 1)
    if not packed.requires_grad:
        return packed, torch.zeros_like(logits)
    (gradient,) = torch.autograd.grad(packed, logits, pull_at(packed))
    return packed.detach(), gradient


def pull_at(packed: Tensor) -> Tensor:
    """How much each sum weighs in the gradient: no two the same."""
    pull = torch.linspace(-1, 2, packed.numel(), dtype=packed.dtype, device=packed.device)
    return pull.reshape(packed.shape)
