"""The boundary band as a transform."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from numpy.testing import assert_array_equal

from segloss.transforms import BoundaryBand
from segloss.transforms.functional import boundary_band

LABEL = np.sort(np.random.default_rng(0).integers(0, 3, (1, 6, 7, 8)), axis=2)
SPACING = (2.0, 0.5, 3.0)


def test_is_that_of_the_label() -> None:
    band = BoundaryBand(width=2.5, spacing=SPACING)(LABEL)
    assert band.dtype == bool
    assert_array_equal(band[0], boundary_band(LABEL[0], width=2.5, spacing=SPACING))
    image = MetaTensor(LABEL, affine=torch.diag(torch.tensor([*SPACING, 1.0])))
    assert_array_equal(BoundaryBand(width=2.5)(image), band)


@pytest.mark.parametrize("dtype", [np.uint8, torch.float32])
def test_dtype_is_as_asked(dtype: torch.dtype | type) -> None:
    band = BoundaryBand(width=2, dtype=dtype)(torch.from_numpy(LABEL))
    assert band.dtype == (dtype if isinstance(dtype, torch.dtype) else torch.uint8)


@pytest.mark.parametrize("width", [0, -1, np.inf])
def test_held_wrong(width: float) -> None:
    with pytest.raises(ValueError, match=f"width must be a finite number above 0, got {width}"):
        BoundaryBand(width=width)
