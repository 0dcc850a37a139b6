"""The YAML file of `nnUNetTrainerSegLoss`; this needs no nnU-Net."""

from pathlib import Path

import pytest

from segloss import BoundaryLoss, Linear, Multiclass, Multilabel, SkeletonRecallLoss
from segloss.catalogue import CATALOGUE
from segloss.nnunet.config import losses, read_recipe
from segloss.nnunet.labels import Labels
from segloss.nnunet.maps import DistanceMap, SkeletonMap

WHOLE = """
fused: true
base_weight: {cosine: {start: 1, end: 0.5, steps: 100}}
terms:
  skeleton_recall: {weight: 0.5, smooth_nr: 1, smooth_dr: 1}
  boundary:
    weight: {linear: [0, 1, 500]}
    background: false
  hard: {loss: focal, gamma: 1.5}
  dice: 2
maps:
  skeleton: {radius: 3, per_class: true}
  distance: {unit: voxel, clip: 20, normalize: true}
"""


def recipe_of(text: str, folder: Path):  # type: ignore[no-untyped-def]  # noqa: ANN201
    path = folder / "losses.yaml"
    path.write_text(text)
    return read_recipe(path)


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    recipe = recipe_of(WHOLE, tmp_path)
    assert recipe.fused
    assert callable(recipe.base_weight) and recipe.base_weight(100) == 0.5
    assert recipe.maps == {
        "skeleton": SkeletonMap(radius=3, per_class=True),
        "distance": DistanceMap("voxel", 20, True),
    }
    terms = recipe.terms
    assert list(terms) == ["skeleton_recall", "boundary", "hard", "dice"]
    assert terms["boundary"].weight == Linear(0, 1, 500)
    assert terms["hard"].weight == 1.0
    assert terms["dice"].weight == 2.0

    labels = Labels(2, ignore=3)
    recall = terms["skeleton_recall"].build(labels, "batch")
    assert isinstance(recall, SkeletonRecallLoss)
    assert recall.smooth_nr == 1 and recall.group == "batch"
    assert recall.encoding == Multiclass(background=False, ignore=3)
    assert terms["hard"].build(labels, "sample").group == "batch"  # as nnU-Net's cross entropy
    assert terms["hard"].build(labels, "sample").encoding == Multiclass(ignore=3)
    boundary = terms["boundary"].build(Labels(2, regions=True, ignore=3), "sample")
    assert isinstance(boundary, BoundaryLoss) and boundary.encoding == Multilabel()


def test_every_loss_can_be_a_term(tmp_path: Path) -> None:
    assert {"dice", "tversky", "cross_entropy", "boundary"} <= losses().keys()
    assert not {"blob", "t"} & losses().keys()  # no such map, nothing that trains it
    told = {"prior": "[0.9, 0.1]"}
    text = "terms:\n"
    for name in losses():
        options = (f"{option}: {told[option]}" for option in CATALOGUE[name].needs)
        text += f"  {name}: {{{', '.join(options)}}}\n"
    terms = recipe_of(text, tmp_path).terms
    assert list(terms) == list(losses())
    for labels in (Labels(2), Labels(2, regions=True)):
        takes = [x for x in terms.values() if isinstance(labels.encoding(True), x.loss.takes)]
        assert len(takes) > 20 and all(term.build(labels, "sample") for term in takes)


def test_a_loss_of_regions_wants_a_dataset_of_regions(tmp_path: Path) -> None:
    term = recipe_of("terms: {asymmetric: 1}", tmp_path).terms["asymmetric"]
    assert term.build(Labels(2, regions=True), "sample")
    with pytest.raises(TypeError, match="AsymmetricLoss takes the encoding Multilabel"):
        term.build(Labels(2), "sample")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is None, expected a dict"),
        ("{fused: false}", "there are no terms, and fused is not true"),
        ("term: {}", "the file has a key 'term', expected base_weight, fused, maps, terms"),
        ("terms: [a]", "terms is ['a'], expected a dict"),
        ("terms: {a: 1}", "a: loss 'a' is not known"),
        ("terms: {a: {loss: Dice}}", "a: loss 'Dice' is not known: did you mean 'dice'?"),
        ("terms: {blob: 1}", "blob: loss 'blob' is none of dice, "),
        ("terms: {dice: {smoth: 1}}", "dice: option 'smoth' is not known"),
        ("terms: {a: {loss: dice, smooth_nr: -1}}", "smooth_nr must be a number"),
        ("terms: {a: {loss: dice, encoding: x}}", "encoding follows from the dataset"),
        ("terms: {a: {loss: dice, background: 1}}", "a: background is 1, expected a bool"),
        ("terms: {a: {loss: dice, weight: -1}}", "a: weight must be a number of at least 0"),
        ("terms: {a: {loss: dice, weight: x}}", "a: weight"),
        ("terms: {a: {loss: dice, weight: {up: 1}}}", "schedule 'up' is not known"),
        ("terms: {a: {loss: dice, weight: {linear: [0, 1]}}}", "a: weight: "),
        ("fused: 1", "fused is 1, expected a bool"),
        ("{fused: true, maps: {bone: {}}}", "maps has a key 'bone', expected distance, skeleton"),
        ("{fused: true, maps: {skeleton: {width: 2}}}", "maps: skeleton: "),
        ("{fused: true, maps: {distance: {unit: cm}}}", "unit must be 'mm' or 'voxel', got 'cm'"),
        ("{fused: true, maps: {skeleton: {radius: -1}}}", "skeleton: radius must be 0 or more"),
        (
            "{fused: true, maps: {skeleton: {radius: true}}}",
            "radius must be an integer of 0 or more",
        ),
        (
            "{fused: true, maps: {skeleton: {per_class: 'no'}}}",
            "per_class is 'no', expected a bool",
        ),
        (
            "{fused: true, maps: {distance: {clip: 0}}}",
            "clip must be a finite number above 0, got 0",
        ),
        ("{fused: true, maps: {distance: {normalize: 1}}}", "normalize is 1, expected a bool"),
        ("terms: {dice: 1, dice: 2}", "'dice' stands there twice"),
        ("terms: {a.b: {loss: dice}}", "a loss cannot be called 'a.b'"),
        ("terms: {keys: {loss: dice}}", "a loss cannot be called 'keys'"),
        ("terms: {dice: {linear: [0, 1, 5]}}", "dice: option 'linear' is not known"),
        (
            "terms: {dice: {weight: {linear: [0, -1, 5]}}}",
            "weight: end must be a number of at least",
        ),
        ("terms: {dice: {weight: {step: [1, -1, 5]}}}", "weight: factor must be a number of at le"),
        ("terms: {dice: {weight: {constant: -1}}}", "weight: value must be a number of at least 0"),
        ("a: [", "while parsing"),
    ],
)
def test_what_is_wrong_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"losses\.yaml: ") as error:
        recipe_of(text, tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_may_repeat_itself_by_reference(tmp_path: Path) -> None:
    text = "terms: {dice: &it {weight: 2, smooth_nr: 1}, jaccard: {<<: *it, weight: 3}}"
    terms = recipe_of(text, tmp_path).terms
    assert [(term.weight, term.options) for term in terms.values()] == [
        (2, {"smooth_nr": 1}),
        (3, {"smooth_nr": 1}),
    ]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        read_recipe(tmp_path / "none.yaml")
