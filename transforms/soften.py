"""Labels as memberships that are less certain near boundaries."""

from monai.config import KeysCollection

from segloss.transforms.arrays import Array, Number, Spacing, positive, whole
from segloss.transforms.base import ON_GPU_TOO, TargetMap, TargetMapd, stacked
from segloss.transforms.channels import distance_count, soft_channels

__all__ = ["SoftenLabels", "SoftenLabelsD", "SoftenLabelsDict", "SoftenLabelsd"]


class SoftenLabels(TargetMap):
    """Memberships in which a voxel's neighbours have a say: spatially varying label smoothing.

    See `segloss.transforms.functional.soften`. A label of one channel, ``(1, *S)`` class ids, gives
    ``(num_classes, *S)`` float32, a channel for every class, the background too, that add up to 1
    for each voxel; one of R channels, 0 or 1 each, gives ``(R, *S)``, each from 0 to 1.

    The result is a target: pass it in place of the label to a loss that is least at a soft target,
    such as `segloss.CrossEntropyLoss` or `segloss.DiceSemimetricLoss`. Unknown voxels keep the
    ignore label in every channel; encodings with ``ignore`` find it there.

    Args:
        num_classes: How many classes there are, with the background; needed for class ids.
        sigma: Of the Gaussian weights of the neighbours, in voxels.
        ignore: The label of unknown voxels. They have no say in others, and stay as they are.

    Raises:
        TypeError: When called, if labels are not integers.
        ValueError: If `num_classes` is below 2, or `sigma` is not above 0; when called, if
            `num_classes` is missing or not the number of regions, a class id is negative or not
            below it, a region is not 0 or 1, or the shape is no channel-first image's.

    Example:
        >>> import numpy as np
        >>> SoftenLabels(num_classes=2)(np.array([[[0, 0, 1, 1, 1]]]))[:, 0].round(2)
        array([[1.  , 0.83, 0.17, 0.  , 0.  ],
               [0.  , 0.17, 0.83, 1.  , 1.  ]], dtype=float32)
    """

    backend = ON_GPU_TOO

    def __init__(
        self, num_classes: int | None = None, sigma: Number = 1, ignore: int | None = None
    ) -> None:
        self.num_classes = None if num_classes is None else whole("num_classes", num_classes, 2)
        self.sigma = positive("sigma", sigma)
        self.ignore = ignore

    def make(self, channels: Array, spacing: Spacing) -> Array:
        soft = soft_channels(
            channels, num_classes=self.num_classes, sigma=self.sigma, ignore=self.ignore
        )
        count = distance_count(channels, num_classes=self.num_classes, background=True)
        return stacked(soft, count)


class SoftenLabelsd(TargetMapd):
    """`SoftenLabels` for dictionaries: adds the memberships of ``label`` as ``soft_label``.

    They take as much room as there are classes, in float32. Place it after the last random spatial
    transform, and after the crop.

    Args:
        keys: Where the labels are.
        num_classes: See `SoftenLabels`.
        sigma: See `SoftenLabels`.
        ignore: See `SoftenLabels`.
        new_key_prefix: The memberships of ``key`` are put at ``new_key_prefix + key``.
        allow_missing_keys: Skip a missing key instead of raising.

    Example:
        >>> import numpy as np
        >>> sample = SoftenLabelsd("label", num_classes=3)({"label": np.eye(8)[None]})
        >>> sample["soft_label"].shape
        (3, 8, 8)
    """

    backend = ON_GPU_TOO

    def __init__(
        self,
        keys: KeysCollection,
        num_classes: int | None = None,
        sigma: Number = 1,
        ignore: int | None = None,
        new_key_prefix: str = "soft_",
        allow_missing_keys: bool = False,
    ) -> None:
        transform = SoftenLabels(num_classes, sigma, ignore)
        super().__init__(keys, transform, new_key_prefix, allow_missing_keys)


SoftenLabelsD = SoftenLabelsDict = SoftenLabelsd
