"""Tiny datasets as nnU-Net's preprocessing leaves them, of crossing tubes in two classes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

CASES = 5
LABELS: dict[str, dict[str, Any]] = {
    "labels": {"background": 0, "artery": 1, "vein": 2},
    "ignore": {"background": 0, "artery": 1, "vein": 2, "ignore": 3},
    "regions": {"background": 0, "vessel": [1, 2], "vein": 2},
    "regions_ignore": {"background": 0, "vessel": [1, 2], "vein": 2, "ignore": 3},
}
MODES = tuple(LABELS)


def tubes(seed: int, shape: tuple[int, ...] = (40, 40, 40)) -> np.ndarray:
    """Two tubes of each class from one side of a volume to the other."""
    generator = np.random.default_rng(seed)
    label = np.zeros(shape, np.uint8)
    for class_id, radius in ((1, 2.5), (1, 1.5), (2, 2.5), (2, 1.5)):
        time = np.linspace(0, 1, 4 * max(shape))[:, None]
        ends = generator.uniform(0.1, 0.9, (2, 3)) * shape
        axis = generator.integers(3)
        ends[:, axis] = 0, shape[axis] - 1
        bend = generator.uniform(-0.15, 0.15, 3) * shape
        points = ends[0] * (1 - time) + ends[1] * time + bend * np.sin(np.pi * time)
        inside = np.clip(np.rint(points), 0, np.array(shape) - 1).astype(int)
        line = np.ones(shape, bool)
        line[tuple(inside.T)] = False
        label[distance_transform_edt(line) <= radius] = class_id
    return label


def image(label: np.ndarray, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 0.3, label.shape)
    bright = gaussian_filter((label > 0) + 0.5 * (label == 2), 0.7)
    return np.asarray(bright + noise, dtype=np.float32)


def dataset_json(mode: str) -> dict[str, Any]:
    order = {"regions_class_order": [1, 2]} if "regions" in mode else {}
    return {
        "channel_names": {"0": "CT"},
        "labels": LABELS[mode],
        "numTraining": CASES,
        "file_ending": ".nii.gz",
        **order,
    }


def network(dimensions: int, strides: list[list[int]]) -> dict[str, Any]:
    """A U-Net of a few channels."""
    module = "torch.nn.modules"
    stages = len(strides)
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": [4, 8, 8, 8][:stages],
            "conv_op": f"{module}.conv.Conv{dimensions}d",
            "kernel_sizes": [[3] * dimensions] * stages,
            "strides": strides,
            "n_conv_per_stage": [1] * stages,
            "n_conv_per_stage_decoder": [1] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"{module}.instancenorm.InstanceNorm{dimensions}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": f"{module}.activation.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def configuration(patch: list[int], strides: list[list[int]], **more: Any) -> dict[str, Any]:
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    function = "resample_data_or_seg_to_shape"
    return {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": patch,
        "median_image_size_in_voxels": [40, 40, 40][-len(patch) :],
        "spacing": [2.0, 1.0, 0.5][-len(patch) :],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": function,
        "resampling_fn_seg": function,
        "resampling_fn_probabilities": function,
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True},
        "resampling_fn_probabilities_kwargs": resampling,
        "architecture": network(len(patch), strides),
        "batch_dice": False,
        **more,
    }


def plans(name: str) -> dict[str, Any]:
    cube = [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
    lowres: dict[str, Any] = {"batch_dice": True, "next_stage": "3d_cascade_fullres"}
    return {
        "dataset_name": name,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [2.0, 1.0, 0.5],
        "original_median_shape_after_transp": [40, 40, 40],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {},
        "configurations": {
            "2d": configuration([32, 32], [[1, 1], [2, 2], [2, 2]], batch_dice=True),
            "3d_fullres": configuration([32, 32, 32], cube),
            "3d_lowres": configuration([32, 32, 32], cube, **lowres),
            "3d_cascade_fullres": {
                "inherits_from": "3d_fullres",
                "previous_stage": "3d_lowres",
            },
            # Flat patches: augmented slice by slice, and a first axis that is halved later.
            "3d_flat": configuration(
                [8, 32, 32], [[1, 1, 1], [1, 2, 2], [2, 2, 2]], spacing=[5.0, 1.0, 1.0]
            ),
        },
    }


def write_preprocessed(folder: Path, name: str, mode: str) -> None:
    """A dataset in ``nnUNet_preprocessed``, in all the configurations at once."""
    from nnunetv2.training.dataloading.nnunet_dataset import (
        comp_blosc2_params,
        nnUNetDatasetBlosc2,
    )

    home = folder / name
    data = home / "nnUNetPlans_3d_fullres"
    data.mkdir(parents=True)
    (home / "dataset.json").write_text(json.dumps(dataset_json(mode)))
    (home / "nnUNetPlans.json").write_text(json.dumps(plans(name)))
    (home / "dataset_fingerprint.json").write_text("{}")
    for case in range(CASES):
        label = tubes(case)
        intensities = image(label, case)
        classes: list[Any] = [(1, 2), 2] if "regions" in mode else [1, 2]
        places = {key: np.argwhere(np.isin(label[None], key)) for key in classes}
        if "ignore" in mode:
            label[:, :, :9] = 3
            places = {key: found[found[:, 3] >= 9] for key, found in places.items()}
            places[(-1, 0, 1, 2)] = np.argwhere(label[None] < 3)
        patch = tuple(plans(name)["configurations"]["3d_fullres"]["patch_size"])
        blocks, chunks = comp_blosc2_params((1, *label.shape), patch)
        nnUNetDatasetBlosc2.save_case(
            intensities[None],
            label[None].astype(np.int16),
            {"class_locations": {key: found[::7] for key, found in places.items()}},
            str(data / f"case_{case}"),
            chunks=chunks,
            blocks=blocks,
        )
