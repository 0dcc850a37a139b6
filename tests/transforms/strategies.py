"""What a label can look like, for Hypothesis to explore; and the real ones there are."""

from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

__all__ = ["anisotropic", "label_maps", "masks", "real_vessels"]

shapes = st.lists(st.integers(1, 7), min_size=2, max_size=3).map(tuple)

label_maps = shapes.flatmap(lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 3)))
"""Class ids from 0 to 3; two or three axes."""


@st.composite
def masks(draw: st.DrawFn, ndim: int | None = None, largest: int = 12) -> np.ndarray:
    """From nearly empty to nearly full, often one voxel thick somewhere."""
    ndim = draw(st.sampled_from([2, 3])) if ndim is None else ndim
    shape = draw(st.lists(st.integers(1, largest), min_size=ndim, max_size=ndim))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return rng.random(shape) < draw(st.sampled_from([0.0, 0.02, 0.2, 0.5, 0.8, 0.98, 1.0]))


def anisotropic(ndim: int) -> st.SearchStrategy[tuple[float, ...]]:
    return st.tuples(*[st.sampled_from([0.3, 0.5, 1.0, 5.0])] * ndim)


def real_vessels(data: Path) -> dict[str, np.ndarray]:
    """Vessels of the brain, of the lung, and of a mouse under two photons."""
    brain = np.load(data / "tubular_3d_masks" / "brainvessels_P1.npz")["label"]
    lung = np.load(data / "tubular_3d_masks" / "lung_R3.npz")["vessels"]
    mouse = np.load(data / "vesselnn_2p" / "burgess2014_tgMouse.npz")["label"]
    crops = {
        "brain": brain[60:156, 100:196, 20:116],
        "lung": lung[100:196, 50:146, 30:126],
        "mouse": mouse[:, 100:228, 100:228],
    }
    return {name: np.ascontiguousarray(crop > 0) for name, crop in crops.items()}
