"""Run losses and more on a device that is not there, and print what is wrong: nothing, if all is well.

    python -m tests.engine.accelerator

Tensors on it are numbers of the CPU that say they are elsewhere. So the code for a GPU runs, can be
held to that for the CPU, and is seen to wait: whenever numbers go from the host to the device or back,
or a shape depends on them. What PyTorch refuses on CUDA under use_deterministic_algorithms is seen, too.
A program of its own, since a process keeps such a device once it has it.
"""

import traceback
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

from segloss import Multiclass
from segloss.engine.constants import kept
from segloss.pseudo import DynamicThreshold, EntropyPercentile, FixedThreshold
from tests.hierarchy.test_losses import some_losses
from tests.hierarchy.trees import tree_batch
from tests.strategies import IGNORED, LOSSES, make_batch

_REFUSED = {"cumsum", "cumprod", "histc", "kthvalue", "median", "nll_loss2d_forward", "put"}
_WAITING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}

waits: list[str] = []


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


_setup_privateuseone_for_python_backend("elsewhere", backend_module=_Module())
DEVICE = torch.device("elsewhere:0")


class OnDevice(Tensor):
    """Numbers that say they are on the device."""

    numbers: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls: Any, numbers: Tensor) -> Any:
        new = Tensor._make_wrapper_subclass(
            cls,
            numbers.shape,
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=DEVICE,
        )
        new.numbers = numbers
        return new

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, op: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _computed(op, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Makes tensors on the device, too."""

    def __torch_dispatch__(self, op: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        there = _is_device(kwargs.get("device")) or any(
            isinstance(x, OnDevice) for x in tree_leaves((args, kwargs))
        )
        return _computed(op, args, kwargs) if there else op(*args, **kwargs)


def _is_device(device: Any) -> bool:
    return device is not None and torch.device(device).type == DEVICE.type


def _computed(op: Any, args: Any, kwargs: Any) -> Any:
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    hosts = [x for x in given if not isinstance(x, OnDevice)]
    device = kwargs.get("device")
    leaves = device is not None and not _is_device(device)
    copies = op._overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_)
    if copies and (hosts or leaves):
        _note("a copy between host and device")
    elif len(hosts) < len(given) and any(x.ndim for x in hosts):
        raise RuntimeError(f"{op} of tensors on the host and on the device")
    if not _WAITING.isdisjoint(op.tags) and _asks(op, args):
        _note(str(op))
    if op._overloadpacket.__name__ in _REFUSED and given[0].is_floating_point():
        _note(f"{op}, which is not deterministic")
    bare = {k: v for k, v in tree_map(_bare, kwargs).items() if k != "device"}
    out = op(*tree_map(_bare, args), **bare)
    if leaves:
        return out
    out = tree_map(lambda x: OnDevice(x) if isinstance(x, Tensor) else x, out)
    return return_and_correct_aliasing(op, args, kwargs, out) if len(hosts) < len(given) else out


def _asks(op: Any, args: Any) -> bool:
    """Whether the numbers matter: of indices only, if they are masks."""
    if op._overloadpacket is not torch.ops.aten.index:
        return True
    return any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])


def _bare(x: Any) -> Any:
    return x.numbers if isinstance(x, OnDevice) else x


def _note(what: str) -> None:
    calls = [x for x in traceback.extract_stack() if "/segloss/" in x.filename]
    first_step_only = any(x.filename == kept.__code__.co_filename for x in calls)
    if not first_step_only:
        place = f"{calls[-1].filename}:{calls[-1].lineno} {calls[-1].line}" if calls else "backward"
        waits.append(f"{what}: {place}")


# What PyTorch copies by itself, such as a list that is an index.
_library = torch.library.Library("aten", "IMPL")


def _empty(size: Any, *_: Any, dtype: Any = None, **__: Any) -> Any:
    return OnDevice(torch.empty(size, dtype=dtype))


def _copied(source: Tensor, target: OnDevice, non_blocking: bool = False) -> OnDevice:
    _note("a copy from the host")
    target.numbers.copy_(_bare(source))
    return target


_library.impl("empty_strided", _empty, "PrivateUse1")
_library.impl("empty.memory_format", _empty, "PrivateUse1")
_library.impl("_copy_from", _copied, "PrivateUse1")


def report(name: str, run: Callable[[Callable[[Tensor], Tensor]], list[Tensor]]) -> None:
    """Print what is wrong with something done on the device, to which the argument moves tensors."""
    waits.clear()
    with _Factories():  # type: ignore[no-untyped-call]
        found = list(map(_bare, run(OnDevice)))
    wrong = [
        f"{x} is not {y}"
        for x, y in zip(found, run(lambda x: x), strict=True)
        if not torch.allclose(x, y, rtol=1e-5, atol=1e-6)
    ]
    for fault in (*dict.fromkeys(waits), *wrong):
        print(f"{name}: {fault}")


def report_loss(loss: Any, logits: Tensor, target: Tensor, maps: dict[str, Tensor]) -> None:
    def step(move: Callable[[Tensor], Tensor]) -> list[Tensor]:
        z = move(logits.clone()).requires_grad_()
        value = loss(z, move(target), **{k: move(x) for k, x in maps.items()})
        value.backward()
        assert z.grad is not None
        return [value.detach(), z.grad]

    report(type(loss).__name__, step)


def report_rule(rule: Any, probability: Tensor) -> None:
    def choice(move: Callable[[Tensor], Tensor]) -> list[Tensor]:
        return [deepcopy(rule)(move(probability)).float()]

    report(type(rule).__name__, choice)


def main() -> None:
    for loss_class in LOSSES:
        if loss_class.__name__ == "TLoss":
            continue  # has a parameter, which would stay on the host
        loss: Any = loss_class(Multiclass(background=False, ignore=IGNORED), class_weight=[1, 2])
        batch = make_batch(loss.encoding, dtype=torch.float32)
        maps = batch.maps(loss, weight=True)
        if "instances" in maps:  # how many there are is not asked of a map of bytes
            maps["instances"] = maps["instances"].byte()
        report_loss(loss, batch.logits, batch.target, maps)
    for loss in some_losses():
        tree = tree_batch(loss.encoding, dtype=torch.float32)
        report_loss(loss, tree.logits, tree.target, {"weight": tree.weight})
    probability = make_batch(dtype=torch.float32).logits.softmax(1)
    for rule in FixedThreshold(0.6), DynamicThreshold(beta=10), EntropyPercentile(50):
        report_rule(rule, probability)


if __name__ == "__main__":
    main()
