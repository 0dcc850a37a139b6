"""Labels as MONAI has them, and the arrays that maps are made of: NumPy's, or CuPy's on a GPU.

A tensor on a GPU becomes an array of CuPy, and its map a tensor, through DLPack: nothing is copied.
CuPy works in PyTorch's stream meanwhile, so what either of them does next comes after.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TypeAlias

import torch
from monai.config import NdarrayOrTensor
from monai.utils import convert_to_dst_type, convert_to_numpy
from torch.utils.dlpack import from_dlpack

from segloss.transforms.arrays import Array, on_gpu

__all__ = ["Label", "channels_of", "check_channel_first", "like", "opened", "stays_on_gpu"]

Label: TypeAlias = NdarrayOrTensor | Array
"""A label or a map: a tensor, MetaTensor, or an array of NumPy or CuPy."""


def check_channel_first(label: Label) -> None:
    """Raise unless a label has a channel axis and two or three axes of space."""
    if label.ndim not in {3, 4} or 0 in label.shape:
        raise ValueError(
            f"the label has shape {tuple(label.shape)}: expected (channels, H, W) or (channels, D, "
            f"H, W), none of them empty. A missing channel axis is added by `EnsureChannelFirstd("
            f"..., channel_dim='no_channel')`; batches go through one sample at a time."
        )


@contextmanager
def opened(labels: Sequence[Label], *, gpu: bool = True) -> Iterator[list[Array]]:
    """The voxels of labels on one device, for as long as they are worked on.

    Args:
        labels: Each ``(C, H, W)`` or ``(C, D, H, W)``.
        gpu: Leave what is on a GPU there, if CuPy is installed. Otherwise all comes in NumPy.

    Raises:
        ValueError: If a label has not a channel axis and two or three axes of space.
    """
    gpu = gpu and stays_on_gpu(labels[0])
    with ExitStack() as stack:
        if gpu and isinstance(labels[0], torch.Tensor):
            stack.enter_context(torch.cuda.device(labels[0].device))
            stack.enter_context(_stream(labels[0].device))
        yield [channels_of(label, gpu=gpu) for label in labels]


def stays_on_gpu(label: Label) -> bool:
    """Whether a label is on a GPU and CuPy is there to work on it; says so if it is not."""
    if not _on_cuda(label):
        return not isinstance(label, torch.Tensor) and on_gpu(label)
    if find_spec("cupy") is None:
        warnings.warn(
            "CuPy is not installed, so the maps of tensors on a GPU are made on the CPU: "
            "`pip install 'segloss-monai[cupy]'`, or move the labels to the CPU.",
            stacklevel=2,
        )
        return False
    return True


def _on_cuda(label: Label) -> bool:
    return isinstance(label, torch.Tensor) and label.is_cuda


def _stream(device: torch.device) -> AbstractContextManager[object]:
    """PyTorch's stream, for CuPy."""
    cuda, stream = import_module("cupy").cuda, torch.cuda.current_stream(device)
    if hasattr(cuda.Stream, "from_external") and hasattr(stream, "__cuda_stream__"):
        return cuda.Stream.from_external(stream)  # type: ignore[no-any-return]
    return cuda.ExternalStream(stream.cuda_stream)  # type: ignore[no-any-return]  # before CuPy 14


def channels_of(label: Label, *, gpu: bool = False) -> Array:
    """A label's voxels in NumPy, or with `gpu` in CuPy; see `opened`."""
    check_channel_first(label)
    if not gpu:
        return convert_to_numpy(label)  # type: ignore[no-any-return]
    if not isinstance(label, torch.Tensor):
        return label
    voxels = label.detach().as_subclass(torch.Tensor)
    is_bool = voxels.dtype == torch.bool  # which not every DLPack knows
    channels = import_module("cupy").from_dlpack(voxels.view(torch.uint8) if is_bool else voxels)
    return channels.view(bool) if is_bool else channels  # type: ignore[no-any-return]


def like(result: Array, label: Label) -> Label:
    """A map in the container of its label: on its device, and with its metadata."""
    if on_gpu(result):
        if not isinstance(label, torch.Tensor):
            return result
        is_bool = result.dtype == bool
        tensor = from_dlpack(result.view("uint8") if is_bool else result)
        tensor = tensor.view(torch.bool) if is_bool else tensor
        return convert_to_dst_type(tensor, label, dtype=tensor.dtype)[0]
    return convert_to_dst_type(result, label, dtype=result.dtype)[0]
