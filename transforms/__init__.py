"""Load-time transforms: label in, the maps that losses need out.

`segloss.transforms.functional` holds the array code and needs neither MONAI nor PyTorch; the classes
here make MONAI transforms of it, for arrays (``X``) and for dictionaries (``Xd``, also known as
``XD`` and ``XDict``). Names are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segloss.transforms.band import (
        BoundaryBand,
        BoundaryBandD,
        BoundaryBandd,
        BoundaryBandDict,
    )
    from segloss.transforms.batch import TargetMaps
    from segloss.transforms.distance import (
        SignedDistance,
        SignedDistanceD,
        SignedDistanced,
        SignedDistanceDict,
    )
    from segloss.transforms.downsample import (
        DownsampleTargetsD,
        DownsampleTargetsd,
        DownsampleTargetsDict,
    )
    from segloss.transforms.instances import (
        InstanceRegions,
        InstanceRegionsD,
        InstanceRegionsd,
        InstanceRegionsDict,
    )
    from segloss.transforms.regions import (
        LabelsToRegions,
        LabelsToRegionsD,
        LabelsToRegionsd,
        LabelsToRegionsDict,
        RegionsToLabels,
        RegionsToLabelsD,
        RegionsToLabelsd,
        RegionsToLabelsDict,
    )
    from segloss.transforms.skeleton import (
        TubedSkeleton,
        TubedSkeletonD,
        TubedSkeletond,
        TubedSkeletonDict,
    )
    from segloss.transforms.soften import (
        SoftenLabels,
        SoftenLabelsD,
        SoftenLabelsd,
        SoftenLabelsDict,
    )
    from segloss.transforms.weight import (
        BoundaryWeight,
        BoundaryWeightD,
        BoundaryWeightd,
        BoundaryWeightDict,
    )

_HOME = {
    "segloss.transforms.band": (
        "BoundaryBand",
        "BoundaryBandD",
        "BoundaryBandDict",
        "BoundaryBandd",
    ),
    "segloss.transforms.batch": ("TargetMaps",),
    "segloss.transforms.distance": (
        "SignedDistance",
        "SignedDistanceD",
        "SignedDistanceDict",
        "SignedDistanced",
    ),
    "segloss.transforms.downsample": (
        "DownsampleTargetsD",
        "DownsampleTargetsDict",
        "DownsampleTargetsd",
    ),
    "segloss.transforms.instances": (
        "InstanceRegions",
        "InstanceRegionsD",
        "InstanceRegionsDict",
        "InstanceRegionsd",
    ),
    "segloss.transforms.regions": (
        "LabelsToRegions",
        "LabelsToRegionsD",
        "LabelsToRegionsDict",
        "LabelsToRegionsd",
        "RegionsToLabels",
        "RegionsToLabelsD",
        "RegionsToLabelsDict",
        "RegionsToLabelsd",
    ),
    "segloss.transforms.skeleton": (
        "TubedSkeleton",
        "TubedSkeletonD",
        "TubedSkeletonDict",
        "TubedSkeletond",
    ),
    "segloss.transforms.soften": (
        "SoftenLabels",
        "SoftenLabelsD",
        "SoftenLabelsDict",
        "SoftenLabelsd",
    ),
    "segloss.transforms.weight": (
        "BoundaryWeight",
        "BoundaryWeightD",
        "BoundaryWeightDict",
        "BoundaryWeightd",
    ),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "BoundaryBand",
    "BoundaryBandD",
    "BoundaryBandDict",
    "BoundaryBandd",
    "BoundaryWeight",
    "BoundaryWeightD",
    "BoundaryWeightDict",
    "BoundaryWeightd",
    "DownsampleTargetsD",
    "DownsampleTargetsDict",
    "DownsampleTargetsd",
    "InstanceRegions",
    "InstanceRegionsD",
    "InstanceRegionsDict",
    "InstanceRegionsd",
    "LabelsToRegions",
    "LabelsToRegionsD",
    "LabelsToRegionsDict",
    "LabelsToRegionsd",
    "RegionsToLabels",
    "RegionsToLabelsD",
    "RegionsToLabelsDict",
    "RegionsToLabelsd",
    "SignedDistance",
    "SignedDistanceD",
    "SignedDistanceDict",
    "SignedDistanced",
    "SoftenLabels",
    "SoftenLabelsD",
    "SoftenLabelsDict",
    "SoftenLabelsd",
    "TargetMaps",
    "TubedSkeleton",
    "TubedSkeletonD",
    "TubedSkeletonDict",
    "TubedSkeletond",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'segloss.transforms' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
