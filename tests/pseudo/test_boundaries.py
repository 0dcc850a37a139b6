"""Both boundaries against their definitions, voxel by voxel, and what the published one gets wrong."""

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from segloss.pseudo import label_boundary, sobel_boundary


def neighbourhood(label: Tensor, at: tuple[int, ...]) -> dict[tuple[int, ...], int]:
    """The labels within one step of a voxel; those beyond the border are those at it."""
    found = {}
    for step in product((-1, 0, 1), repeat=len(at)):
        place = tuple(
            min(max(i + d, 0), n - 1) for i, d, n in zip(at, step, label.shape, strict=True)
        )
        found[step] = int(label[place])
    return found


def by_hand(label: Tensor, classes: int | None) -> Tensor:
    """For the Sobel operator with its full kernel, for the other with a set."""
    out = torch.zeros_like(label, dtype=torch.bool)
    for i, sample in enumerate(label):
        for at in product(*map(range, sample.shape)):
            around = neighbourhood(sample, at)
            if classes is None:
                out[(i, *at)] = len(set(around.values())) > 1
                continue
            for k in range(classes):
                for axis in range(len(at)):
                    slope = 0
                    for step, value in around.items():
                        smooth = [2 - abs(d) for j, d in enumerate(step) if j != axis]
                        slope += step[axis] * int(torch.tensor(smooth).prod()) * (value == k)
                    if slope:
                        out[(i, *at)] = True
    return out


SPACES = st.lists(st.integers(1, 4), min_size=2, max_size=3)


@given(SPACES, st.integers(1, 3), st.integers(0, 99))
def test_as_defined(space: list[int], classes: int, seed: int) -> None:
    label = torch.randint(
        classes, (2, *space), generator=torch.Generator().manual_seed(seed), dtype=torch.int64
    )
    assert torch.equal(label_boundary(label), by_hand(label, None))
    assert torch.equal(sobel_boundary(label, classes), by_hand(label, classes))


def test_a_gradient_that_only_the_heavier_middle_row_shows() -> None:
    label = torch.tensor([[[0, 0, 1], [1, 0, 0], [0, 1, 0]]])
    assert sobel_boundary(label, 2)[0, 1, 1]


def published(label: Tensor, classes: int) -> Tensor:
    """Sobel's kernels over one-hot masks that are padded with zeros."""
    x = functional.one_hot(label, classes).movedim(-1, 1).float()
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    kernels = torch.stack((across, across.T))[:, None].repeat(classes, 1, 1, 1)
    return (functional.conv2d(x, kernels, padding=1, groups=classes) != 0).any(1)


@pytest.mark.parametrize("space", [(8, 8), (5, 6, 7)], ids=str)
def test_an_image_of_one_class_has_no_boundary(space: tuple[int, ...]) -> None:
    """The published operator finds one at the border of the image: 28 of 64 voxels."""
    label = torch.ones(1, *space, dtype=torch.int64)
    assert not label_boundary(label).any()
    assert not sobel_boundary(label, 2).any()
    if len(space) == 2:
        assert published(label, 2).sum() == 28


def test_away_from_the_border_it_is_the_published_operator() -> None:
    label = torch.randint(3, (4, 9, 9), generator=torch.Generator().manual_seed(0))
    label = label.repeat_interleave(2, 1).repeat_interleave(2, 2)
    inside = (slice(None), slice(1, -1), slice(1, -1))
    found = sobel_boundary(label, 3)[inside]
    assert torch.equal(found, published(label, 3)[inside])
    assert 0 < found.float().mean() < 1


@pytest.mark.parametrize("dimensions", [2, 3])
def test_what_is_one_voxel_thin(dimensions: int) -> None:
    """The published operator finds the voxels beside a line, and beside a dot, not these."""
    line = torch.zeros(1, *[7] * dimensions, dtype=torch.int64)
    line[(0, *[3] * (dimensions - 1))] = 1
    dot = torch.zeros_like(line)
    dot[(0, *[3] * dimensions)] = 1
    for label in (line, dot):
        on = label == 1
        assert label_boundary(label)[on].all()
        assert not sobel_boundary(label, 2)[on].any()
        assert sobel_boundary(label, 2).any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64], ids=str)
@pytest.mark.parametrize("find", [label_boundary, lambda x: sobel_boundary(x, 256)])
def test_every_integer_type_and_large_labels(find: Any, dtype: torch.dtype) -> None:
    label = torch.tensor([[[0, 0, 0, 255, 255, 254]]]).to(dtype)
    assert find(label).tolist() == [[[False, False, True, True, True, True]]]
