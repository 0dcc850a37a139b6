"""Counting classes in a loader, and the weights made of the counts."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, RandCropByLabelClassesd, RandFlipd
from torch import Tensor
from torch.nn.functional import one_hot
from torch.testing import assert_close

from segloss import (
    ClassPriors,
    CrossEntropyLoss,
    LDAMLoss,
    LogitAdjustedCrossEntropyLoss,
    Multiclass,
    Multilabel,
    VectorScalingLoss,
    class_balanced_weights,
    class_priors,
    inverse_frequency_weights,
    priors,
)

QUIET: dict[str, Any] = {"progress": False}


def label_batches(shape: tuple[int, ...] = (4, 5, 6), seed: int = 0) -> list[Tensor]:
    """Three batches of labels 0 to 2, the last of which few patches have."""
    rng = torch.Generator().manual_seed(seed)
    batches = [torch.randint(2, (2, *shape), generator=rng) for _ in range(3)]
    batches[1][0, 0, :2] = 2
    return batches


def by_hand(batches: list[Tensor], classes: int, ignore: int = -1) -> ClassPriors:
    patches = list(itertools.chain.from_iterable(batches))
    voxels = [sum(float((x == k).sum()) for x in patches) for k in range(classes)]
    counted = float(sum((x != ignore).sum() for x in patches))
    return ClassPriors(
        voxels=tuple(voxels),
        counted=(counted,) * classes,
        patches=tuple(sum(bool((x == k).any()) for x in patches) for k in range(classes)),
        total=len(patches),
    )


@pytest.mark.parametrize("shape", [(5, 6), (4, 5, 6)], ids=["2d", "3d"])
def test_labels_are_counted_in_any_guise(shape: tuple[int, ...]) -> None:
    batches = label_batches(shape)
    expected = by_hand(batches, 3)
    guises: list[Any] = [
        lambda x: x,
        lambda x: x[:, None],
        lambda x: x[:, None].to(torch.uint8),
        lambda x: x[:, None].float(),
        lambda x: one_hot(x, 3).movedim(-1, 1),
        lambda x: one_hot(x, 3).movedim(-1, 1).float(),
        lambda x: MetaTensor(x[:, None]),
        lambda x: x[:, None].numpy(),
        lambda x: [x[:, None], x[:, None, ::2]],  # scales
    ]
    for guise in guises:
        assert class_priors([{"label": guise(x)} for x in batches], channels=3, **QUIET) == expected


@pytest.mark.parametrize("place", ["target", 1, -1])
def test_a_batch_may_be_a_dictionary_or_a_tuple(place: Any) -> None:
    batches = label_batches()
    made = [{"target": x} if place == "target" else (torch.zeros(2), x) for x in batches]
    assert class_priors(made, channels=3, target=place, **QUIET) == by_hand(batches, 3)


def test_frequencies_are_shares_of_what_counts() -> None:
    batches = label_batches()
    batches[0][:, :2] = 255
    encoding = Multiclass(ignore=255)
    found = class_priors([{"label": x} for x in batches], encoding, channels=3, **QUIET)
    assert found == by_hand(batches, 3, ignore=255)
    assert found.counted[0] < 720
    assert_close(sum(found.frequencies), 1.0)
    assert_close(found.frequencies[2], found.voxels[2] / found.counted[2])


def test_memberships_are_added_up() -> None:
    rng = torch.Generator().manual_seed(0)
    soft = torch.rand(2, 3, 4, 5, generator=rng)
    soft = soft / soft.sum(1, keepdim=True)
    found = class_priors([{"label": soft}], channels=3, **QUIET)
    assert_close(torch.tensor(found.voxels), soft.sum((0, 2, 3)).double().float())
    assert found.counted == (40.0,) * 3


def test_regions_are_counted_each_by_itself() -> None:
    regions = torch.zeros(2, 2, 4, 5, dtype=torch.uint8)
    regions[0, 0, :2] = 1
    regions[:, 1] = 255
    regions[0, 1, 0, 0] = 1
    found = class_priors([{"label": regions}], Multilabel(ignore=255), channels=2, **QUIET)
    assert found == ClassPriors((10.0, 1.0), (40.0, 1.0), (1, 1), 2)
    assert found.frequencies == (0.25, 1.0)


def test_a_binary_target_needs_no_channel() -> None:
    for shape in [(2, 4, 5), (2, 1, 4, 5), (2, 3, 4, 5), (2, 1, 3, 4, 5)]:
        target = torch.zeros(shape)
        target[0] = 1
        found = class_priors([{"label": target}], Multilabel(), channels=1, **QUIET)
        assert found.frequencies == (0.5,)
        assert found.patches == (1,)


def test_patches_are_counted_as_they_are_sampled() -> None:
    """The scan is nearly all background; what the network sees is not."""
    label = torch.zeros(1, 32, 32, dtype=torch.long)
    label[0, 16, 16] = 1
    crop = RandCropByLabelClassesd(
        "label", "label", (3, 3), ratios=[0, 1], num_classes=2, num_samples=4
    )
    transform = Compose([crop, RandFlipd("label", 0.5)]).set_random_state(0)
    loader = DataLoader(Dataset([{"label": label}] * 3, transform), batch_size=3, num_workers=0)
    found = class_priors(loader, channels=2, **QUIET)
    assert found.total == 12
    assert found.patches == (12, 12)
    assert_close(found.frequencies, (8 / 9, 1 / 9))


def endless() -> Iterator[dict[str, Tensor]]:
    while True:
        yield {"label": torch.zeros(2, 3, 3)}


def test_a_loader_without_end_is_stopped() -> None:
    assert class_priors(endless(), channels=2, batches=5, **QUIET).total == 10
    assert class_priors(label_pairs(), channels=3, batches=2, **QUIET).total == 4
    assert class_priors(label_pairs(), channels=3, batches=20, **QUIET).total == 6


def label_pairs() -> list[dict[str, Tensor]]:
    return [{"label": x} for x in label_batches()]


def test_the_bar_knows_how_long_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []

    def track(batches: Any, _: str, length: int | None, *, disable: bool, **__: Any) -> Any:
        shown.append((length, disable))
        return batches

    monkeypatch.setattr(priors, "track", track)
    class_priors(label_pairs(), channels=3)
    class_priors(label_pairs(), channels=3, batches=2)
    class_priors(label_pairs(), channels=3, batches=9)
    class_priors(endless(), channels=3, batches=5)
    class_priors(iter(label_pairs()), channels=3, batches=2, progress=False)
    assert shown == [(3, False), (2, False), (3, False), (5, False), (2, True)]


def test_counts_feed_the_losses() -> None:
    found = class_priors(label_pairs(), channels=3, **QUIET)
    logits, labels = torch.zeros(2, 3, 4, 5, 6), label_batches()[0]
    for loss_class in (LogitAdjustedCrossEntropyLoss, VectorScalingLoss, LDAMLoss):
        assert loss_class(prior=found.frequencies)(logits, labels).isfinite()
    for weights in (
        class_balanced_weights(found.patches),
        inverse_frequency_weights(found.frequencies),
    ):
        assert CrossEntropyLoss(class_weight=weights)(logits, labels).isfinite()
        assert weights[2] == max(weights)


@pytest.mark.parametrize(
    ("batch", "options", "words"),
    [
        ({"image": torch.zeros(1)}, {}, r"batch 0: target='label' is not in .* \['image'\]"),
        ((torch.zeros(1),), {"target": 1}, "batch 0: target=1 is not in .* tuple of 1 entries"),
        ((torch.zeros(1),), {}, "batch 0: target='label' is not in"),
        ({"label": torch.zeros(2, 5)}, {}, r"target has shape \(2, 5\), expected"),
        ({"label": torch.full((2, 4, 5), 3)}, {}, "batch 0: target holds label 3.*ignore=3"),
        ({"label": torch.full((2, 4, 5), 0.5)}, {}, "not integers"),
        (
            {"label": torch.zeros(2, 2, 4, 5, 6)},
            {},
            r"target has shape \(2, 2, 4, 5, 6\), expected",
        ),
        ({"label": torch.zeros(2, 3, 4, 5)}, {}, r"do not add up to 1.* \(2, 1, 3, 4, 5\)"),
        (
            {"label": torch.full((2, 4, 5), 9)},
            {"encoding": Multiclass(ignore=9)},
            "nothing to count",
        ),
    ],
)
def test_a_batch_that_cannot_be_counted(batch: Any, options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){words}"):
        class_priors([batch], channels=3, **options, **QUIET)


def test_an_empty_loader() -> None:
    with pytest.raises(ValueError, match="0 patches"):
        class_priors([], channels=3, **QUIET)


# Weights


@pytest.mark.parametrize("beta", [0.9, 0.99, 0.999])
def test_class_balanced_weights_by_their_formula(beta: float) -> None:
    counts = [500, 100, 3]
    raw = [(1 - beta) / (1 - beta**n) for n in counts]
    expected = [3 * x / sum(raw) for x in raw]
    assert_close(class_balanced_weights(counts, beta=beta), tuple(expected))


def test_class_balanced_weights_lie_between_equal_and_inverse() -> None:
    counts = [8, 4, 1]
    assert_close(class_balanced_weights([5, 5, 5]), (1.0, 1.0, 1.0))
    near_one = class_balanced_weights(counts, beta=1 - 1e-9)
    assert_close(near_one, inverse_frequency_weights(counts, power=1), rtol=1e-6, atol=0)
    default = class_balanced_weights(counts)
    assert default == class_balanced_weights(counts, beta=1 - 1 / 8)
    assert 1 < default[2] / default[0] < 8
    assert_close(sum(default), 3.0)


def test_class_balanced_weights_of_voxel_counts_would_be_inert() -> None:
    voxels = [2e8, 3e6, 1e5]
    inert = [(1 - 0.9999) / (1 - 0.9999**n) for n in voxels]
    assert max(inert) / min(inert) < 1.001
    with pytest.raises(ValueError, match=r"(?s)beta=0\.9999 .*equal.*100000 and 2e\+08.*voxels"):
        class_balanced_weights(voxels, beta=0.9999)
    assert class_balanced_weights(voxels)[2] > 2


def test_inverse_frequency_weights_by_their_formula() -> None:
    prior = [0.9, 0.09, 0.01]
    for power in (0.0, 0.5, 1.0):
        found = inverse_frequency_weights(prior, power=power)
        assert_close(
            [w * p**power for w, p in zip(found, prior, strict=True)], [found[0] * 0.9**power] * 3
        )
        assert_close(sum(found), 3.0)
        assert_close(found, inverse_frequency_weights([100 * p for p in prior], power=power))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: class_balanced_weights([5, 0]), "counts must .* above 0, got 0.0 for class 1"),
        (lambda: class_balanced_weights([]), "counts is empty"),
        (lambda: class_balanced_weights([5, 1], beta=1.0), "beta must .*1.0"),
        (lambda: class_balanced_weights([5, 1], beta=-0.1), "beta must .*-0.1"),
        (lambda: class_balanced_weights([5, 1], beta=0.0), "beta=0.0 makes the weights .* equal"),
        (lambda: inverse_frequency_weights([0.5, 0.0]), "prior must .*0.0 for class 1"),
        (lambda: inverse_frequency_weights([0.5], power=-1.0), "power must .*-1.0"),
    ],
)
def test_numbers_that_give_no_weights(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
