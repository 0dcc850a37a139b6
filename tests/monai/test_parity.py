"""Changing the import changes neither the signature nor the value nor the gradient."""

import inspect
from enum import Enum
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from monai import losses as theirs
from monai.data.meta_tensor import MetaTensor
from monai.utils import LossReduction
from monai.utils import Weight as WeightType
from torch import Tensor

from segloss import monai as ours
from tests.monai.cases import SHAPES, assert_alike, make_batch

ACTIVATIONS: list[dict[str, Any]] = [
    {"softmax": True},
    {"sigmoid": True},
    {"other_act": torch.sigmoid},
]
OF_DICE: list[dict[str, Any]] = [
    {},
    {"include_background": False},
    {"squared_pred": True},
    {"jaccard": True, "smooth_nr": 1.0, "smooth_dr": 0.5},
    {"jaccard": True, "squared_pred": True, "batch": True},
    {"reduction": "sum", "weight": 3.0},
    {"reduction": LossReduction.NONE, "include_background": False},
    {"reduction": "none", "batch": True},
    {"batch": True, "include_background": False, "smooth_nr": 0.0},
    {"soft_label": True},
]
OF_TVERSKY: list[dict[str, Any]] = [
    {},
    {"alpha": 0.3, "beta": 0.7, "include_background": False},
    {"alpha": 1.0, "beta": 1.0, "reduction": "none", "smooth_nr": 1.0, "smooth_dr": 1.0},
    {"reduction": "none", "batch": True, "soft_label": True},
    {"reduction": "sum"},
]
OF_GENERALIZED: list[dict[str, Any]] = [
    {},
    {"w_type": "simple", "include_background": False, "batch": True},
    {"w_type": WeightType.UNIFORM, "reduction": "sum"},
    {"reduction": "none", "smooth_nr": 1.0, "smooth_dr": 2.0},
    {"reduction": "none", "batch": True},
]
REGIONS = [
    (name, {**activation, **options})
    for name, variants in [
        ("DiceLoss", OF_DICE),
        ("TverskyLoss", OF_TVERSKY),
        ("GeneralizedDiceLoss", OF_GENERALIZED),
    ]
    for activation, options in product(ACTIVATIONS, variants)
]
FOCAL: list[tuple[str, dict[str, Any]]] = [
    ("FocalLoss", {}),
    ("FocalLoss", {"include_background": False, "gamma": 1.0}),
    ("FocalLoss", {"reduction": "sum", "alpha": 0.25}),
    ("FocalLoss", {"include_background": False, "alpha": 0.7, "weight": 2.0}),
    ("FocalLoss", {"use_softmax": True}),
    ("FocalLoss", {"use_softmax": True, "alpha": 0.25, "reduction": "sum"}),
    ("FocalLoss", {"use_softmax": True, "gamma": 3.0, "weight": 2.0}),
    ("FocalLoss", {"use_softmax": True, "alpha": 0.0}),
    ("FocalLoss", {"alpha": 0.0}),
]
COMPOUNDS: list[tuple[str, dict[str, Any]]] = [
    ("DiceCELoss", {"softmax": True}),
    ("DiceCELoss", {"softmax": True, "include_background": False, "batch": True, "lambda_ce": 0.3}),
    ("DiceCELoss", {"softmax": True, "reduction": "sum", "squared_pred": True, "lambda_dice": 2.0}),
    ("DiceCELoss", {"softmax": True, "label_smoothing": 0.2}),
    ("DiceCELoss", {"other_act": torch.sigmoid, "jaccard": True}),
    ("DiceFocalLoss", {"softmax": True}),
    ("DiceFocalLoss", {"sigmoid": True, "include_background": False, "alpha": 0.3, "gamma": 1.5}),
    ("DiceFocalLoss", {"softmax": True, "reduction": "sum", "lambda_focal": 5.0, "weight": 2.0}),
    ("DiceFocalLoss", {"other_act": torch.sigmoid, "batch": True}),
    ("GeneralizedDiceFocalLoss", {"softmax": True}),
    ("GeneralizedDiceFocalLoss", {"sigmoid": True, "w_type": "simple", "lambda_gdl": 0.3}),
    ("GeneralizedDiceFocalLoss", {"softmax": True, "include_background": False, "batch": True}),
]

OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("MCCLoss", {"softmax": True}),
    ("MCCLoss", {"sigmoid": True, "include_background": False, "reduction": "sum"}),
    ("MCCLoss", {"softmax": True, "reduction": "none", "smooth_nr": 50.0, "smooth_dr": 1e5}),
    ("MCCLoss", {"other_act": torch.sigmoid, "reduction": "none", "batch": True}),
    ("BoundaryLoss", {"softmax": True}),
    ("BoundaryLoss", {"sigmoid": True, "include_background": False, "reduction": "sum"}),
    ("BoundaryLoss", {"other_act": torch.sigmoid, "reduction": "none"}),
    ("BoundaryLoss", {"softmax": True, "reduction": "none", "batch": True}),
    ("HausdorffDTLoss", {"softmax": True}),
    ("HausdorffDTLoss", {"sigmoid": True, "include_background": True, "alpha": 1.0}),
    ("HausdorffDTLoss", {"other_act": torch.sigmoid, "reduction": "none", "alpha": 3.0}),
    ("HausdorffDTLoss", {"softmax": True, "reduction": "none", "batch": True}),
    ("LogHausdorffDTLoss", {"softmax": True}),
    ("LogHausdorffDTLoss", {"sigmoid": True, "reduction": "sum", "batch": True}),
    ("LogHausdorffDTLoss", {"softmax": True, "reduction": "none"}),
    ("SoftclDiceLoss", {"softmax": True}),
    ("SoftclDiceLoss", {"sigmoid": True, "include_background": False, "reduction": "none"}),
    ("SoftclDiceLoss", {"other_act": torch.sigmoid, "smooth_nr": 0.1, "smooth": 0.5, "iter_": 1}),
    ("SoftDiceclDiceLoss", {"softmax": True, "include_background": False, "alpha": 0.3}),
    ("SoftDiceclDiceLoss", {"sigmoid": True, "reduction": "sum", "smooth_dr": 0.1, "iter_": 0}),
]


def pair(name: str, options: dict[str, Any]) -> tuple[Any, Any]:
    return getattr(ours, name)(**options), getattr(theirs, name)(**options)


def described(case: Any) -> str:
    return ",".join(f"{k}={getattr(v, '__name__', v)}" for k, v in case.items()) or "defaults"


def named(value: Any) -> str | None:
    return described(value) if isinstance(value, dict) else None


@pytest.mark.parametrize("name", [name for name in ours.__all__ if hasattr(theirs, name)])
def test_the_signature_is_that_of_monai(name: str) -> None:
    def arguments(loss: Any) -> list[tuple[str, Any]]:
        given = inspect.signature(loss).parameters.values()
        return [
            (p.name, str(p.default) if isinstance(p.default, Enum) else p.default) for p in given
        ]

    assert arguments(getattr(ours, name)) == arguments(getattr(theirs, name))


@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
@pytest.mark.parametrize(("name", "options"), [*REGIONS, *FOCAL, *COMPOUNDS, *OTHERS], ids=named)
def test_value_and_gradient_of_labels_and_of_memberships(
    name: str, options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    batch = make_batch(shape)
    assert_alike(*pair(name, {**options, "to_onehot_y": True}), batch.logits, batch.labels)
    assert_alike(*pair(name, options), batch.logits, batch.memberships)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DiceLoss", {"softmax": True, "weight": [1.0, 0.0, 3.0]}),
        ("DiceLoss", {"sigmoid": True, "include_background": False, "weight": [1.0, 3.0]}),
        ("FocalLoss", {"alpha": [0.1, 0.5, 0.9]}),
        ("FocalLoss", {"include_background": False, "alpha": [0.5, 0.9], "weight": (2.0, 1.0)}),
        ("FocalLoss", {"use_softmax": True, "alpha": [0.1, 0.5, 0.9], "weight": [1.0, 2.0, 3.0]}),
        ("DiceFocalLoss", {"softmax": True, "weight": torch.tensor([1.0, 2.0, 3.0])}),
        ("GeneralizedDiceFocalLoss", {"sigmoid": True, "weight": [1.0, 2.0, 3.0]}),
        ("DiceCELoss", {"softmax": True, "weight": torch.tensor([1.0, 2.0, 3.0])}),
        (
            "DiceCELoss",
            {
                "softmax": True,
                "include_background": False,
                "weight": torch.tensor([1.0, 2.0, 3.0]),
                "label_smoothing": 0.3,
                "batch": True,
            },
        ),
        (
            "DiceCELoss",
            {"softmax": True, "weight": torch.tensor([1.0, 2.0, 3.0]), "reduction": "sum"},
        ),
    ],
    ids=named,
)
def test_weights_by_class(name: str, options: dict[str, Any]) -> None:
    batch = make_batch(SHAPES[0])
    assert_alike(*pair(name, {**options, "to_onehot_y": True}), batch.logits, batch.labels)
    assert_alike(*pair(name, options), batch.logits, batch.memberships)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DiceLoss", {"sigmoid": True}),
        ("DiceLoss", {"sigmoid": True, "reduction": "none", "weight": [3.0]}),
        ("TverskyLoss", {"sigmoid": True, "alpha": 0.2}),
        ("GeneralizedDiceLoss", {"sigmoid": True}),
        ("FocalLoss", {"alpha": 0.2}),
        ("DiceFocalLoss", {"sigmoid": True, "alpha": 0.2}),
        ("GeneralizedDiceFocalLoss", {"sigmoid": True}),
        ("DiceCELoss", {"sigmoid": True}),
        ("DiceCELoss", {"sigmoid": True, "weight": torch.tensor([3.0])}),
        ("DiceCELoss", {"sigmoid": True, "reduction": "sum"}),
        ("MCCLoss", {"sigmoid": True}),
        ("BoundaryLoss", {"sigmoid": True}),
        ("HausdorffDTLoss", {"sigmoid": True, "include_background": True}),
        ("SoftDiceclDiceLoss", {"sigmoid": True}),
    ],
    ids=named,
)
def test_a_single_channel(name: str, options: dict[str, Any]) -> None:
    batch = make_batch((2, 1, 7, 6))
    assert_alike(*pair(name, options), batch.logits, batch.labels.float())


@pytest.mark.filterwarnings("ignore:single channel prediction")
@pytest.mark.parametrize(
    "name",
    [
        "DiceLoss",
        "TverskyLoss",
        "DiceCELoss",
        "GeneralizedDiceLoss",
        "MCCLoss",
        "BoundaryLoss",
        "HausdorffDTLoss",
        "SoftDiceclDiceLoss",
    ],
)
def test_a_single_channel_is_no_background(name: str) -> None:
    batch = make_batch((2, 1, 7, 6))
    options = {"sigmoid": True, "include_background": False, "to_onehot_y": True}
    assert_alike(*pair(name, options), batch.logits, batch.labels.float())


@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DiceLoss", {}),
        ("DiceLoss", {"squared_pred": True, "include_background": False}),
        ("DiceLoss", {"soft_label": True, "batch": True, "jaccard": True}),
        ("TverskyLoss", {"alpha": 0.2}),
        ("GeneralizedDiceLoss", {"include_background": False}),
        ("MCCLoss", {}),
        ("BoundaryLoss", {}),
        ("HausdorffDTLoss", {}),
    ],
    ids=named,
)
def test_probabilities_that_are_given(
    name: str, options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    """Also at exactly 0 and 1, which a network's own activation may round to."""
    batch = make_batch(shape)
    given = batch.logits.softmax(1)
    if "soft_label" not in options:  # |p - y| has a kink there, where any slope is right
        given[:, :, 0], given[:, 0, 0] = 0, 1
    assert_alike(*pair(name, options), given, batch.memberships)


@pytest.mark.parametrize("activation", [{"softmax": True}, {"sigmoid": True}], ids=named)
@pytest.mark.parametrize("name", ["DiceLoss", "TverskyLoss", "GeneralizedDiceLoss"])
@pytest.mark.parametrize("soft_label", [False, True])
def test_soft_labels(name: str, activation: dict[str, Any], soft_label: bool) -> None:
    batch = make_batch(SHAPES[0])
    soft = make_batch(SHAPES[0], seed=1).logits.softmax(1)
    assert_alike(*pair(name, {**activation, "soft_label": soft_label}), batch.logits, soft)


@pytest.mark.parametrize("options", [{}, {"batch": True}, {"w_type": "uniform"}], ids=named)
def test_an_absent_class_in_the_generalised_dice(options: dict[str, Any]) -> None:
    batch = make_batch(SHAPES[0], absent=1)
    both = pair("GeneralizedDiceLoss", {"softmax": True, **options})
    assert_alike(*both, batch.logits, batch.memberships)


@pytest.mark.parametrize("name", ["BoundaryLoss", "HausdorffDTLoss", "MCCLoss", "SoftclDiceLoss"])
def test_an_absent_class_and_one_everywhere(name: str) -> None:
    batch = make_batch(SHAPES[1], absent=1)
    memberships = batch.memberships.clone()
    memberships[0], memberships[0, 2] = 0, 1
    assert_alike(*pair(name, {"sigmoid": True}), batch.logits, memberships)
    assert_alike(*pair(name, {"softmax": True}), batch.logits, batch.memberships)


@pytest.mark.parametrize(
    "name", ["BoundaryLoss", "HausdorffDTLoss", "MCCLoss", "SoftclDiceLoss", "SoftDiceclDiceLoss"]
)
def test_soft_labels_of_other_losses(name: str) -> None:
    soft, logits = (make_batch(SHAPES[1], seed=seed).logits for seed in (1, 0))
    assert_alike(*pair(name, {"softmax": True}), logits, soft.softmax(1))
    assert_alike(*pair(name, {}), logits.softmax(1), soft.softmax(1))


@pytest.mark.parametrize("flipped", [False, True])
def test_all_right_and_all_wrong_by_matthews(flipped: bool) -> None:
    """Also where a class is absent, or everywhere."""
    memberships = make_batch(SHAPES[0], absent=1).memberships
    memberships[0, 2] = 1
    given = (1 - memberships) if flipped else memberships
    found, expected = pair("MCCLoss", {"reduction": "none"})
    torch.testing.assert_close(found(given, memberships), expected(given, memberships))


@pytest.mark.parametrize("ignore", [1, 255])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DiceLoss", {"softmax": True, "include_background": False}),
        ("DiceLoss", {"sigmoid": True, "batch": True}),
        ("DiceLoss", {"other_act": torch.sigmoid, "squared_pred": True}),
        ("TverskyLoss", {"softmax": True, "alpha": 0.3}),
        ("FocalLoss", {"reduction": "sum"}),
        ("FocalLoss", {"reduction": "sum", "alpha": 0.3, "use_softmax": True}),
    ],
    ids=named,
)
def test_ignored_voxels(name: str, options: dict[str, Any], ignore: int) -> None:
    batch = make_batch(SHAPES[0])
    labels, memberships = batch.labels.clone(), batch.memberships.clone()
    labels[:, :, :2], memberships[:, :, :2] = ignore, 0
    if ignore < batch.logits.shape[1]:
        memberships[:, ignore, :2] = 1
    of_labels = pair(name, {**options, "ignore_index": ignore, "to_onehot_y": True})
    of_memberships = pair(name, {**options, "ignore_index": ignore})
    assert_alike(*of_labels, batch.logits, labels)
    assert_alike(*of_memberships, batch.logits, memberships)


@pytest.mark.parametrize("options", [{}, {"squared_pred": True, "batch": True}], ids=named)
def test_ignored_voxels_of_a_single_channel(options: dict[str, Any]) -> None:
    batch = make_batch((2, 1, 7, 6))
    labels = batch.labels.float()
    labels[:, :, :2] = 255
    both = pair("DiceLoss", {"sigmoid": True, "ignore_index": 255, **options})
    assert_alike(*both, batch.logits, labels)


@pytest.mark.parametrize(
    "loss",
    [
        ours.FocalLoss(ignore_index=1),
        ours.BoundaryLoss(softmax=True),
        ours.LogHausdorffDTLoss(softmax=True),
        ours.SoftDiceclDiceLoss(softmax=True),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_metadata_end_at_the_loss(loss: Any) -> None:
    batch = make_batch(SHAPES[0])
    value = loss(MetaTensor(batch.logits), MetaTensor(batch.labels))
    assert type(value) is Tensor
    assert value == loss(batch.logits, batch.labels)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(
    "options", [{"softmax": True}, {"sigmoid": True, "include_background": False}, {}], ids=named
)
def test_masked_dice(options: dict[str, Any], alone: bool) -> None:
    batch = make_batch(SHAPES[1])
    mask = (make_batch(SHAPES[1], seed=3).logits[: 1 if alone else 2, :1] > 0).float()
    input = batch.logits if options else batch.logits.sigmoid()
    assert_alike(*pair("MaskedDiceLoss", options), input, batch.memberships, mask)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("mode", ["default", "GDL"])
@pytest.mark.parametrize("as_tensor", [True, False])
def test_wasserstein(mode: str, reduction: str, as_tensor: bool) -> None:
    costs = np.array([[0, 2, 2], [2, 0, 1], [2, 1, 0]], dtype=np.float32)
    given: Tensor | np.ndarray[Any, Any] = torch.from_numpy(costs) if as_tensor else costs
    batch = make_batch(SHAPES[0])
    options = {"dist_matrix": given, "weighting_mode": mode, "reduction": reduction}
    assert_alike(*pair("GeneralizedWassersteinDiceLoss", options), batch.logits, batch.labels)


@pytest.mark.parametrize(
    "options",
    [{}, {"weight_mode": "same"}, {"weight_mode": "two"}, {"weights": [1.0, 0.3, 0.2, 0.1]}],
    ids=named,
)
def test_deep_supervision(options: dict[str, Any]) -> None:
    batch = make_batch((2, 3, 16, 16))
    scales = [batch.logits[:, :, ::step, ::step] for step in (1, 2, 4)]
    dice: dict[str, Any] = {"softmax": True, "to_onehot_y": True}
    found = ours.DeepSupervisionLoss(ours.DiceLoss(**dice), **options)
    expected = theirs.DeepSupervisionLoss(theirs.DiceLoss(**dice), **options)
    target = batch.labels.float()
    torch.testing.assert_close(found(scales, target), expected(scales, target))
    torch.testing.assert_close(found(scales, batch.labels), expected(scales, target))
    torch.testing.assert_close(found(scales[0], target), expected(scales[0], target))
