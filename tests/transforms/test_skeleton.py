"""The tubed skeleton as a transform."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from segloss.transforms import TubedSkeleton
from tests.reference.maps import published_tube

LABEL = (np.random.default_rng(0).random((1, 9, 8, 7)) < 0.7).astype(np.uint8)


def test_is_the_published_one() -> None:
    tube = TubedSkeleton()(LABEL)
    assert tube.dtype == np.int16
    assert_array_equal(tube[0], published_tube(LABEL[0]))


def test_on_a_real_label_of_many_classes(real_data: Path) -> None:
    path = real_data / "topcow_roi" / "topcow_mr_roi_003.nii.gz"
    label = np.asarray(nib.Nifti1Image.from_filename(path).dataobj)
    tube = TubedSkeleton()(label[None])
    assert_array_equal(tube[0], published_tube(label))
    per_class = TubedSkeleton(per_class=True)(label[None])
    alone = [published_tube(label == c) * c for c in np.unique(label)]
    assert_array_equal(per_class[0], np.sum(alone, axis=0))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, torch.int64, torch.uint8])
def test_dtype_is_as_asked(dtype: torch.dtype | type) -> None:
    for label in LABEL, torch.from_numpy(LABEL):
        tube = TubedSkeleton(dtype=dtype)(label)
        assert str(np.dtype(str(dtype).removeprefix("torch.")) if isinstance(dtype, torch.dtype)
                   else np.dtype(dtype)) in str(tube.dtype)  # fmt: skip


def test_regions_are_bool_whatever_the_dtype() -> None:
    tube = TubedSkeleton(dtype=np.int32)(np.concatenate([LABEL, 1 - LABEL]))
    assert tube.dtype == bool


def test_ids_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="class id 300 does not fit into dtype uint8: pass a wide"):
        TubedSkeleton(dtype=np.uint8)(LABEL.astype(np.int16) * 300)


def test_held_wrong() -> None:
    with pytest.raises(ValueError, match="radius must be 0 or more, got -1"):
        TubedSkeleton(radius=-1)
    with pytest.raises(TypeError, match="dtype must hold integers"):
        TubedSkeleton(dtype=np.float32)
