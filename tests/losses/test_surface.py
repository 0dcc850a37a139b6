"""Losses of surfaces: as published, and where what is published goes wrong."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.testing import assert_close

from segloss import (
    BoundaryDoULoss,
    BoundaryLoss,
    CenterlineBoundaryDiceLoss,
    CrossEntropyLoss,
    DiceLoss,
    GeneralizedSurfaceLoss,
    HausdorffDTLoss,
    HausdorffLoss,
    LabelTree,
    Loss,
    Multiclass,
    Multilabel,
    RegionWiseLoss,
    SquaredDiceLoss,
    Tree,
)
from segloss.engine.distance import squared_boundary_distance
from segloss.transforms import BoundaryWeight, SignedDistance
from tests.losses.checks import assert_as_defined, value_and_gradient
from tests.strategies import make_batch

MAPPED: tuple[Any, ...] = (
    BoundaryLoss,
    GeneralizedSurfaceLoss,
    HausdorffDTLoss,
    HausdorffLoss,
    RegionWiseLoss,
)
each_mapped = pytest.mark.parametrize("loss_class", MAPPED, ids=lambda x: x.__name__)


def balls(space: tuple[int, ...] = (14, 15), classes: int = 3) -> Tensor:
    """A ball of each class, clear of the border and of the others: ``(1, *space)``."""
    at = torch.stack(torch.meshgrid(*map(torch.arange, space), indexing="ij"), -1).double()
    label = torch.zeros(space, dtype=torch.long)
    for c in range(1, classes):
        centre = torch.tensor([(4.2, 9.1)[(c + axis) % 2] for axis in range(len(space))])
        label[(at - centre).norm(dim=-1) < 1.6 + c] = c
    return label[None]


def distances(label: Tensor, classes: int = 3, **options: Any) -> Tensor:
    return torch.stack(
        [
            torch.from_numpy(SignedDistance(classes, **options)(one.numpy()))
            for one in label[:, None]
        ]
    )


def noise(label: Tensor, classes: int = 3, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(len(label), classes, *label.shape[1:], generator=rng).double()


def certain(found: Tensor, classes: int = 3, scale: float = 20.0) -> Tensor:
    return scale * one_hot(found, classes).movedim(-1, 1).double()


class TestGeneralizedSurface:
    def test_is_the_published_formula(self) -> None:
        label = balls()
        logits, phi = noise(label), distances(label).double()
        p, y = logits.softmax(1)[:, 1:], one_hot(label, 3).movedim(-1, 1)[:, 1:]
        weight = y.flatten(2).sum(2).double() ** -2
        kept = (weight * (phi * (1 - (y + p))).square().flatten(2).sum(2)).sum()
        expected = 1 - kept / (weight * phi.square().flatten(2).sum(2)).sum()
        loss = GeneralizedSurfaceLoss(smooth_nr=0, smooth_dr=0)
        assert_close(loss(logits, label, distance=phi), expected)

    @pytest.mark.parametrize("empty", ["smooth", "skip", "penalise"])
    def test_an_absent_class_does_not_take_over_the_surface(self, empty: Any) -> None:
        """With 1 / (volume² + 1) as its weight, as published, it counts thousands of times."""
        label = balls(classes=2)
        logits, phi = noise(label), distances(label).double()
        assert not phi[:, 1].any()
        away = phi.clone()
        away[:, 1] = 5.0  # maps of other makers are not 0
        loss = GeneralizedSurfaceLoss(empty=empty)
        for distance in (phi, away):
            _, gradient = value_and_gradient(loss, logits, label, distance=distance)
            without, slope = value_and_gradient(
                GeneralizedSurfaceLoss(), logits, label, distance=phi
            )
            assert gradient[:, 1].abs().max() > 0.01 * slope[:, 1].abs().max()
        assert 0 < without < 1

    def test_has_no_unit(self) -> None:
        label = balls()
        logits = noise(label)
        values = [
            GeneralizedSurfaceLoss(smooth_nr=0, smooth_dr=0)(
                logits, label, distance=distances(label, spacing=s)
            )
            for s in (1, 0.1, 25)
        ]
        assert_close(values[0], values[1], rtol=1e-6, atol=0)
        assert_close(values[0], values[2], rtol=1e-6, atol=0)

    def test_is_flat_where_cross_entropy_is_not(self) -> None:
        label = balls()
        wrong = certain((label + 1) % 3)
        _, flat = value_and_gradient(
            GeneralizedSurfaceLoss(), wrong, label, distance=distances(label)
        )
        _, steep = value_and_gradient(CrossEntropyLoss(), wrong, label)
        assert flat.abs().max() < 1e-9
        assert steep.abs().max() > 1e-3


class TestHausdorff:
    @pytest.mark.parametrize("space", [(14, 15), (14, 13, 12)], ids=str)
    def test_load_time_and_step_time_measure_alike(self, space: tuple[int, ...]) -> None:
        """The map of the target, and what the loss itself would measure of it."""
        label = balls(space)
        spacing = (2.0, 0.5, 1.5)[: len(space)]
        masks = one_hot(label, 3).movedim(-1, 1)[:, 1:].bool()
        squares = squared_boundary_distance(masks, spacing)
        assert_close(distances(label, spacing=spacing).square(), squares)
        # So of a prediction that is the target both sides are the same.
        logits = noise(label).sign() + certain(label, scale=9.0)
        maps = {"distance": distances(label, spacing=spacing)}
        one_side = HausdorffLoss()(logits, label, **maps)
        assert_close(HausdorffDTLoss(spacing=spacing)(logits, label, **maps), 2 * one_side)

    @pytest.mark.parametrize("spacing", [(2.0, 0.5, 1.5), (1.0, 1.0, 3.0)])
    def test_any_spacing(self, spacing: tuple[float, ...]) -> None:
        batch = make_batch(Multiclass(background=False, ignore=255), shape=(2, 3, 4, 5, 3))
        for alpha in (1.0, 2.0, 3.0):
            loss = HausdorffDTLoss(Multiclass(background=False, ignore=255), spacing=spacing)
            loss.alpha = alpha
            maps = batch.maps(loss, weight=True)
            assert_as_defined(loss, batch.logits, batch.target, maps, relative=1e-6)

    @pytest.mark.parametrize("guise", [torch.uint8, torch.int64, torch.float32], ids=str)
    def test_an_integer_target_does_not_truncate_distances(self, guise: torch.dtype) -> None:
        """In MONAI a target of integers makes integers of the distances: 1.41 becomes 1."""
        label = balls()
        phi, logits = distances(label), noise(label)
        loss = HausdorffDTLoss()
        assert_close(
            loss(logits, label.to(guise), distance=phi), loss(logits, label, distance=phi.double())
        )
        assert (phi.frac() % 0.5 != 0).any()

    def test_a_hausdorff_loss_has_a_gradient(self) -> None:
        """A published form, by erosion in NumPy, has none."""
        label = balls()
        target, found = (
            one_hot(x, 3).movedim(-1, 1)[:, 1:] for x in (label, torch.roll(label, (2, 1), (1, 2)))
        )
        logits, maps = 2.0 * (2 * found.double() - 1), {"distance": distances(label)}
        _, gradient = value_and_gradient(HausdorffDTLoss(Multilabel()), logits, target, **maps)
        missed, invented = (target == 1) & (found == 0), (target == 0) & (found == 1)
        assert missed.any() and invented.any()
        assert (gradient[missed] < 0).all()
        assert (gradient[invented] > 0).all()

    def test_far_errors_cost_more_the_higher_the_power(self) -> None:
        label = torch.zeros(1, 5, 30, dtype=torch.long)
        label[:, 1:4, 1:4] = 1
        near, far = label.clone(), label.clone()
        near[:, 2, 5] = far[:, 2, 25] = 1
        for loss_class in (HausdorffLoss, HausdorffDTLoss):
            ratios = []
            for alpha in (0.5, 1.0, 2.0):
                loss = loss_class(alpha=alpha)
                costs = [
                    loss(certain(found, 2), label, distance=distances(label, 2))
                    for found in (near, far)
                ]
                ratios.append(costs[1] / costs[0])
            assert 1 < ratios[0] < ratios[1] < ratios[2]

    def test_without_a_boundary_on_either_side_it_is_blind(self) -> None:
        label = torch.zeros(1, 4, 5, dtype=torch.long)
        phi, everything = distances(label, 2), torch.ones_like(label)
        assert HausdorffDTLoss()(certain(everything, 2), label, distance=phi) == 0
        something = label.clone()
        something[:, 1, 2] = 1
        assert HausdorffDTLoss()(certain(something, 2), label, distance=phi) > 0

    @pytest.mark.parametrize(
        ("spacing", "words"),
        [(0.0, "above 0, got 0"), ((1.0, -2.0), "above 0"), (float("nan"), "above 0, got nan")],
    )
    def test_a_spacing_that_is_none(self, spacing: Any, words: str) -> None:
        with pytest.raises(ValueError, match=f"spacing must hold finite numbers {words}"):
            HausdorffDTLoss(spacing=spacing)

    def test_a_spacing_of_other_axes(self) -> None:
        label = balls()
        loss = HausdorffDTLoss(spacing=(1.0, 2.0, 3.0))
        with pytest.raises(ValueError, match=r"spacing has 3 numbers.*2 image axes"):
            loss(noise(label), label, distance=distances(label))


class TestRegionWise:
    @pytest.mark.parametrize("space", [(14, 15), (14, 13, 12)], ids=str)
    def test_is_the_published_loss_less_its_least_value(self, space: tuple[int, ...]) -> None:
        label = balls(space)
        phi, y = distances(label).double(), one_hot(label, 3).movedim(-1, 1)[:, 1:]
        deepest = phi.flatten(2).amin(2).view(1, 2, *[1] * len(space))
        z = torch.where(phi < 0, -phi / deepest, 1.0)
        assert z.min() == -1

        def published(logits: Tensor, target: Tensor) -> Tensor:
            return (logits.softmax(1)[:, 1:] * z).mean()

        logits = noise(label)
        value, gradient = value_and_gradient(RegionWiseLoss(), logits, label, distance=phi)
        expected, slope = value_and_gradient(published, logits, label)
        assert_close(value, expected - (y * z).mean())
        assert_close(gradient, slope)

    def test_has_no_unit(self) -> None:
        label = balls()
        maps = [distances(label, spacing=s) for s in (1, 0.1, 25)]
        values = [RegionWiseLoss()(noise(label), label, distance=m) for m in maps]
        assert_close(values[0], values[1])
        assert_close(values[0], values[2])

    def test_what_is_found_of_an_absent_class_costs(self) -> None:
        label = balls(classes=2)
        logits = noise(label)
        scores = RegionWiseLoss(reduction="none")(logits, label, distance=distances(label))
        assert_close(scores[0, 1], logits.softmax(1)[0, 2].mean())

    def test_the_background_may_have_a_say(self) -> None:
        label = balls()
        maps = {"distance": distances(label, background=True)}
        with_it = RegionWiseLoss(Multiclass(), reduction="none")(noise(label), label, **maps)
        without = RegionWiseLoss(reduction="none")(noise(label), label, **maps)
        assert_close(with_it[:, 1:], without)


class TestBoundaryDoU:
    @pytest.mark.parametrize("batch", [1, 3])
    def test_is_the_published_formula(self, batch: int) -> None:
        """In 2D, class by class over the batch, for objects clear of the border of the image."""
        label = torch.cat([balls(), balls().flip(1), balls().flip(2)][:batch])
        logits, s = noise(label), 1e-5
        cross = torch.tensor([[0, 1, 0], [1, 1, 1], [0, 1, 0]]).double()[None, None]
        scores = []
        for c in range(1, 3):
            p, y = logits.softmax(1)[:, c], (label == c).double()
            neighbours = torch.conv2d(y[:, None], cross, padding=1)[:, 0]
            border, size = ((y == 1) & (neighbours < 5)).sum(), y.sum()
            alpha = (2 * (1 - (border + s) / (size + s)) - 1).clamp(max=0.8)
            both, squares = (p * y).sum(), (p * p).sum() + (y * y).sum()
            scores.append((squares - 2 * both + s) / (squares - (1 + alpha) * both + s))
        foreground = Multiclass(background=False)
        loss = BoundaryDoULoss(foreground, group="batch", smooth_nr=0, smooth_dr=s)
        assert_close(loss(logits, label), torch.stack(scores).mean(), rtol=1e-6, atol=0)

    def test_counts_the_voxels_of_a_cube_that_are_at_its_boundary(self) -> None:
        label = torch.zeros(1, 9, 9, 9, dtype=torch.long)
        label[:, 2:7, 2:7, 2:7] = 1
        logits = noise(label, 2)
        p = logits.softmax(1)[0, 1]
        alpha, both = 1 - 2 * (5**3 - 3**3) / 5**3, p[2:7, 2:7, 2:7].sum()
        squares = p.square().sum() + 5**3
        expected = (squares - 2 * both) / (squares - (1 + alpha) * both)
        loss = BoundaryDoULoss(Multiclass(background=False), smooth_nr=0, smooth_dr=0)
        assert_close(loss(logits, label), expected)

    def test_what_is_all_boundary_has_a_squared_dice(self) -> None:
        label = torch.eye(9, dtype=torch.long)[None]
        options: dict[str, Any] = {"encoding": Multiclass(background=False)}
        assert_close(
            BoundaryDoULoss(**options)(noise(label, 2), label),
            SquaredDiceLoss(**options)(noise(label, 2), label),
        )

    def test_the_larger_the_target_the_more_its_boundary_counts(self) -> None:
        """The same share of it missing costs more."""
        costs = []
        for side in (4, 12, 40):
            label = torch.zeros(1, 50, 50, dtype=torch.long)
            label[:, 5 : 5 + side, 5 : 5 + side] = 1
            found = label.clone()
            found[:, 5 : 5 + side // 4] = 0
            loss = BoundaryDoULoss(Multiclass(background=False))
            costs.append(loss(certain(found, 2), label))
        assert costs[0] < costs[1] < costs[2]

    def test_samples_are_not_pooled_unless_they_should_be(self) -> None:
        label = torch.cat([balls(), balls().flip(1, 2) * (torch.arange(14) > 6)[None, :, None]])
        logits = noise(label)
        by_sample = BoundaryDoULoss(reduction="none")(logits, label)
        alone = [
            BoundaryDoULoss(reduction="none")(logits[i : i + 1], label[i : i + 1]) for i in (0, 1)
        ]
        assert_close(by_sample, torch.cat(alone))

    def test_an_absent_class_may_have_a_gradient(self) -> None:
        """The published loss is 1 whatever is found of it."""
        label = torch.zeros(1, 8, 8, dtype=torch.long)
        pulls = {}
        policies: tuple[Any, ...] = ("smooth", "penalise")
        for empty in policies:
            loss = BoundaryDoULoss(Multiclass(background=False), empty=empty)
            _, gradient = value_and_gradient(loss, torch.zeros(1, 2, 8, 8).double(), label)
            pulls[empty] = gradient[:, 1].max().item()
        assert pulls["smooth"] < 1e-6
        assert pulls["penalise"] > 1e-3

    def test_the_border_of_the_image_is_no_boundary(self) -> None:
        label = torch.ones(1, 6, 7, dtype=torch.long)
        logits = noise(label, 2)
        p = logits.softmax(1)[:, 1]
        squares = p.square().sum() + 42
        expected = (squares - 2 * p.sum()) / (squares - 1.8 * p.sum())
        loss = BoundaryDoULoss(Multiclass(background=False), smooth_nr=0, smooth_dr=0)
        assert_close(loss(logits, label), expected)


@each_mapped
def test_one_map_serves_them_all(loss_class: Any) -> None:
    """Alone, and together in one compound, whatever else is in it."""
    losses = [x() for x in MAPPED]
    label = balls()
    maps = {"distance": distances(label)}
    compound = sum(losses[1:], losses[0] + DiceLoss())
    compound(noise(label), label, **maps)
    alone = loss_class()(noise(label), label, **maps)
    for name, loss in compound.losses.items():
        if isinstance(loss, loss_class):
            assert_close(compound.terms[name], alone)


@each_mapped
def test_pulls_towards_the_target(loss_class: Any) -> None:
    """From an undecided head, each class is raised inside and lowered outside."""
    label = balls()
    encoding = Multilabel()
    target = one_hot(label, 3).movedim(-1, 1)[:, 1:]
    _, gradient = value_and_gradient(
        loss_class(encoding),
        torch.zeros(target.shape).double(),
        target,
        distance=distances(label),
    )
    assert (gradient[target == 1] < 0).all()
    assert (gradient[target == 0] > 0).all()


@pytest.mark.parametrize(
    "loss_class", [BoundaryDoULoss, CenterlineBoundaryDiceLoss, HausdorffDTLoss, RegionWiseLoss]
)
def test_autocast_changes_nothing_where_nodes_are_sums_of_channels(loss_class: Any) -> None:
    loss = loss_class(Tree(LabelTree({"whole": {"core": {"enhancing": None}}})))
    rng = torch.Generator().manual_seed(0)
    logits = 0.5 * torch.randn(2, 4, 24, 25, generator=rng)
    target = torch.randint(4, (2, 24, 25), generator=rng)
    maps = {"distance": torch.randn(2, loss.encoding.nodes(4), 24, 25, generator=rng)}
    maps["skeleton"] = maps["distance"] < -1
    maps = {name: x for name, x in maps.items() if name in loss.reads}
    expected = value_and_gradient(loss, logits, target, **maps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(value_and_gradient(loss, logits, target, **maps), expected)


def test_the_one_sided_form_needs_no_pass_of_its_own() -> None:
    for loss_class in (BoundaryLoss, GeneralizedSurfaceLoss, HausdorffLoss):
        assert loss_class.own_sums is Loss.own_sums


class TestWeightedCrossEntropy:
    """The losses that are a cross entropy with a weight for each voxel."""

    def cells(self) -> Tensor:
        """Three cells, two of them a gap of two pixels apart: ``(1, 16, 20)``."""
        label = torch.zeros(1, 16, 20, dtype=torch.long)
        label[:, 3:12, 2:8] = label[:, 4:13, 10:15] = label[:, 2:5, 17:19] = 1
        return label

    def weight(self, label: Tensor, **options: Any) -> Tensor:
        return torch.as_tensor(BoundaryWeight(**options)(label.numpy()))

    def test_that_of_the_u_net(self) -> None:
        """The weight w_c + w0 exp(-(d1 + d2)² / 2σ²), d to the border of the nearest two cells."""
        label, w0, sigma = self.cells(), 10.0, 5.0
        balance, logits = torch.tensor([0.4, 1.6]).double(), noise(self.cells(), 2)
        boxes = [(3, 12, 2, 8), (4, 13, 10, 15), (2, 5, 17, 19)]
        expected = torch.empty(16, 20, dtype=torch.float64)
        for y in range(16):
            for x in range(20):
                # From a pixel's centre to the edge of a cell, a rectangle of pixels.
                gaps = [
                    (
                        max(top - 0.5 - y, y - bottom + 0.5, 0),
                        max(left - 0.5 - x, x - right + 0.5, 0),
                    )
                    for top, bottom, left, right in boxes
                ]
                first, second, _ = sorted((dy * dy + dx * dx) ** 0.5 for dy, dx in gaps)
                gap = math.exp(-((first + second) ** 2) / (2 * sigma**2))
                expected[y, x] = balance[label[0, y, x]] + w0 * gap
        m = -logits.log_softmax(1).gather(1, label[:, None])[0, 0]
        weight = balance[label] + self.weight(label, kind="unet", strength=w0, sigma=sigma) - 1
        found = CrossEntropyLoss()(logits, label, weight=weight)
        assert_close(found, (expected * m).sum() / expected.sum(), rtol=1e-6, atol=0)

    def test_that_of_distance_maps(self) -> None:
        """(1 + Φ) m, Φ largest at the boundary and 0 where it is farthest."""
        label = balls(classes=2)
        logits, away = noise(label, 2), distances(label, 2)[0, 0].double().abs()
        expected = 2 - away / away.max()
        m = -logits.log_softmax(1).gather(1, label[:, None])[0, 0]
        weight = self.weight(label, kind="linear", strength=1)
        found = CrossEntropyLoss()(logits, label, weight=weight)
        assert_close(found, (expected * m).sum() / expected.sum(), rtol=1e-6, atol=0)

    def test_a_distance_penalised_cross_entropy_is_not_the_plain_one(self) -> None:
        """One that is published computes its weights, and returns the plain mean."""
        label = balls(classes=2)
        logits, weight = noise(label, 2), self.weight(label, kind="linear", strength=1)
        value, gradient = value_and_gradient(CrossEntropyLoss(), logits, label, weight=weight)
        plain, slope = value_and_gradient(CrossEntropyLoss(), logits, label)
        assert abs(value / plain - 1) > 1e-3
        pull = (gradient / slope)[0, 0]
        assert_close(pull / pull[0, 0], (weight / weight[0, 0, 0])[0].double())
