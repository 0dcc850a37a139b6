# /// script
# requires-python = ">=3.10"
# dependencies = ["segloss-monai"]
# ///
"""Phantoms of arteries and veins as a raw dataset of nnU-Net.

python make_dataset.py nnUNet_raw/Dataset900_Vessels [--size 96]
"""

import argparse
import json
from pathlib import Path

import nibabel as nib
import numpy as np

from segloss.data_scripts.phantom import vessel_phantom

TRAINING, TEST = 8, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=96, help="voxels along an axis")
    options = parser.parse_args()

    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (options.folder / part).mkdir(parents=True)
    for case in range(TRAINING + TEST):
        shape = (options.size,) * 3
        image, label = vessel_phantom(shape, seed=case, classes="several", trees=6)
        images = "imagesTr" if case < TRAINING else "imagesTs"
        save(image, options.folder / images / f"vessels_{case}_0000.nii.gz")
        if case < TRAINING:
            save(label, options.folder / "labelsTr" / f"vessels_{case}.nii.gz")
    dataset = {
        "channel_names": {"0": "phantom"},
        "labels": {"background": 0, "artery": 1, "vein": 2},
        "numTraining": TRAINING,
        "file_ending": ".nii.gz",
    }
    (options.folder / "dataset.json").write_text(json.dumps(dataset, indent=2))


def save(array: np.ndarray, path: Path) -> None:
    nib.Nifti1Image(array, np.eye(4)).to_filename(path)


if __name__ == "__main__":
    main()
