"""What every loss promises, whichever loss it is. A new public loss is tested here by existing."""

import copy
import inspect
import pickle
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import segloss
from segloss import (
    BlobLoss,
    BoundaryDoULoss,
    BoundaryLoss,
    CenterlineBoundaryDiceLoss,
    CenterlineDiceLoss,
    CrossEntropyLoss,
    DeepSupervisionLoss,
    DiceLoss,
    HausdorffDTLoss,
    Loss,
    Multiclass,
    Multilabel,
    NeighbourAwareCalibrationLoss,
    RegionWiseLoss,
    SkeletonRecallLoss,
    TLoss,
)
from tests.losses.checks import value_and_gradient
from tests.strategies import TOPOLOGY, WITH_PRIOR, Batch, make_batch

PUBLIC: dict[str, Any] = {name: getattr(segloss, name) for name in segloss.__all__}
EVERY_LOSS: list[Any] = [
    x
    for x in PUBLIC.values()
    if inspect.isclass(x) and issubclass(x, Loss) and not inspect.isabstract(x)
]


def reads_any_encoding(loss_class: Any) -> bool:
    """The losses of trees and of partial labels need to be told theirs: tests/hierarchy."""
    encoding = inspect.signature(loss_class).parameters["encoding"]
    return encoding.default is not inspect.Parameter.empty


LOSSES = [x for x in EVERY_LOSS if reads_any_encoding(x) and x not in WITH_PRIOR]

# PyTorch's own compiler does what PyTorch warns of.
DYNAMO = pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated:DeprecationWarning",
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
)


def having(*options: str) -> list[Any]:
    """The losses and their options of these names."""
    made = [(x, vars(x())) for x in LOSSES]
    return [
        pytest.param(x, option, id=f"{x.__name__}-{option}")
        for x, given in made
        for option in options
        if option in given
    ]


def function_of(loss_class: Any) -> Any:
    words = re.findall("[A-Z][a-z]+", loss_class.__name__.removesuffix("Loss"))
    return PUBLIC.get("_".join(words).lower())


def reading(encoding: Any, loss_class: Any, **options: Any) -> Any:
    """The loss with that encoding, if it takes it."""
    if not isinstance(encoding, loss_class.takes):
        pytest.skip(f"takes another encoding than {encoding}")
    return loss_class(encoding, **options)


@pytest.fixture(params=LOSSES, ids=lambda cls: cls.__name__)
def loss_class(request: pytest.FixtureRequest) -> Any:
    if request.param in TOPOLOGY:
        pytest.importorskip("topolosses", reason="needs segloss-monai[topology]")
    return request.param


def batch_for(loss: Any, shape: tuple[int, ...] = (3, 4, 6, 5)) -> tuple[Batch, dict[str, Tensor]]:
    batch = make_batch(loss.encoding, shape=shape)
    return batch, batch.maps(loss)


def test_every_loss_is_here() -> None:
    names = {name for name in PUBLIC if name.endswith("Loss")}
    assert {x.__name__ for x in EVERY_LOSS} == names - {
        "Loss",
        "RegionLoss",
        "VoxelLoss",
        "CompoundLoss",
        "DeepSupervisionLoss",
        "TreeTripletLoss",  # of embeddings
    }


def test_options_are_the_same_everywhere(loss_class: Any) -> None:
    parameters = inspect.signature(loss_class).parameters
    assert next(iter(parameters)) == "encoding"
    kinds = {p.kind for name, p in parameters.items() if name != "encoding"}
    assert kinds <= {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}
    loss_class(group="batch", class_weight=None, reduction="sum")


def test_every_option_is_documented(loss_class: Any) -> None:
    text = inspect.getdoc(loss_class) or ""
    assert "Example:" in text
    elsewhere = any(f"`segloss.{base.__name__}`" in text for base in loss_class.__mro__[1:])
    for name, parameter in inspect.signature(loss_class).parameters.items():
        documented = re.search(rf"^ *\**{name}:", text, re.MULTILINE)
        assert documented or elsewhere, name
        assert parameter.annotation is not inspect.Parameter.empty


@pytest.mark.parametrize("with_function", [*filter(function_of, LOSSES)])
def test_the_function_takes_the_options_of_the_module(with_function: Any) -> None:
    loss = with_function()
    for name, option in inspect.signature(function_of(with_function)).parameters.items():
        if option.default is not option.empty:
            assert getattr(loss, name) == option.default


def test_comes_back_from_repr_pickle_copy_and_state(loss_class: Any) -> None:
    scored = 3 if loss_class().encoding.first else 4
    loss = loss_class(group="batch", class_weight=[1.0] * (scored - 1) + [2.0])
    batch, maps = batch_for(loss)
    expected = loss(batch.logits, batch.target, **maps)
    fresh = loss_class(group="batch", class_weight=[1.0] * (scored - 1) + [2.0])
    fresh.load_state_dict(loss.state_dict())
    twins = [eval(repr(loss), dict(PUBLIC)), pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)]
    for twin in [*twins, fresh]:
        assert repr(twin) == repr(loss)
        assert_close(twin(batch.logits, batch.target, **maps), expected)


LEARNED = {"TLoss": ["log_nu"]}


def test_has_nothing_to_train_and_nothing_to_move(loss_class: Any) -> None:
    loss = loss_class()
    assert [name for name, _ in loss.named_parameters()] == LEARNED.get(loss_class.__name__, [])
    assert loss.half() is loss
    batch, maps = batch_for(loss)
    assert_close(
        loss.eval()(batch.logits, batch.target, **maps),
        loss_class()(batch.logits, batch.target, **maps),
    )


@pytest.mark.parametrize("group", ["sample", "batch"])
def test_reductions_agree(loss_class: Any, group: str) -> None:
    results = {}
    for reduction in ("none", "mean", "sum"):
        loss = loss_class(group=group, reduction=reduction)
        batch, maps = batch_for(loss)
        results[reduction] = loss(batch.logits, batch.target, **maps)
    assert results["none"].shape[0] == (3 if group == "sample" else 1)
    assert_close(results["mean"], results["none"].mean())
    assert_close(results["sum"], results["none"].sum())
    assert results["mean"].shape == results["sum"].shape == ()


def test_samples_do_not_see_each_other(loss_class: Any) -> None:
    loss = loss_class(group="sample", reduction="none")
    batch, maps = batch_for(loss)
    alone = [
        loss(
            batch.logits[i : i + 1],
            batch.target[i : i + 1],
            **{name: m[i : i + 1] for name, m in maps.items()},
        )
        for i in range(3)
    ]
    assert_close(loss(batch.logits, batch.target, **maps), torch.cat(alone))


LOOKING_AROUND = (
    BlobLoss,
    BoundaryDoULoss,
    CenterlineBoundaryDiceLoss,
    CenterlineDiceLoss,
    HausdorffDTLoss,
    RegionWiseLoss,
    NeighbourAwareCalibrationLoss,
)


def test_a_batch_group_is_one_long_sample(loss_class: Any) -> None:
    if loss_class in LOOKING_AROUND:
        pytest.skip("in a row, samples are more than their sum: neighbours, components, depths")
    loss = loss_class(group="batch", reduction="none")
    batch, maps = batch_for(loss)

    def joined(x: Tensor, channels: bool) -> Tensor:
        return x.movedim(0, 1).flatten(1, 2)[None] if channels else x.flatten(0, 1)[None]

    long = {name: joined(m, m.ndim == 4) for name, m in maps.items()}
    other = loss(joined(batch.logits, True), joined(batch.target, batch.target.ndim == 4), **long)
    assert_close(loss(batch.logits, batch.target, **maps), other)


def test_gives_the_same_twice_and_leaves_its_inputs_alone(loss_class: Any) -> None:
    loss = loss_class()
    batch, maps = batch_for(loss)
    before = copy.deepcopy((batch, maps))
    first = value_and_gradient(loss, batch.logits, batch.target, **maps)
    second = value_and_gradient(loss, batch.logits, batch.target, **maps)
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
    assert torch.equal(batch.logits, before[0].logits)
    assert torch.equal(batch.target, before[0].target)
    assert all(torch.equal(maps[name], before[1][name]) for name in maps)


def test_works_without_gradients(loss_class: Any) -> None:
    loss = loss_class().requires_grad_(False)
    batch, maps = batch_for(loss)
    with torch.no_grad():
        value = loss(batch.logits.requires_grad_(), batch.target, **maps)
    assert not value.requires_grad
    assert not loss(batch.logits.detach(), batch.target, **maps).requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(loss_class: Any, dtype: torch.dtype) -> None:
    loss = loss_class()
    batch = make_batch(loss.encoding, shape=(1, 2, 32, 32, 32), dtype=torch.float32)
    maps = batch.maps(loss)
    expected = value_and_gradient(loss, batch.logits, batch.target, **maps)
    with torch.autocast("cpu", dtype=dtype):
        found = value_and_gradient(loss, batch.logits, batch.target, **maps)
    assert_close(found, expected)


def test_a_metatensor_is_a_tensor(loss_class: Any) -> None:
    from monai.data import MetaTensor

    loss = loss_class()
    batch, maps = batch_for(loss)
    expected = loss(batch.logits, batch.target, **maps)
    meta = {name: MetaTensor(m) for name, m in maps.items()}
    found = loss(MetaTensor(batch.logits), MetaTensor(batch.target), **meta)
    assert type(found) is Tensor
    assert_close(found, expected)


def test_adds_up_and_scales(loss_class: Any) -> None:
    loss = loss_class()
    batch, maps = batch_for(loss)
    compound = 0.5 * (loss + loss_class() * 3)
    value = loss(batch.logits, batch.target, **maps)
    assert_close(compound(batch.logits, batch.target, **maps), 2 * value)


# What is held wrong is told so: argument, value or shape, expectation, remedy.


def fails(loss: Any, *words: str, **changed: Any) -> None:
    """Call the loss with some arguments changed; each of the words must be in the message."""
    shape = changed.pop("shape", (2, 3, 4, 5))
    batch = make_batch(loss.encoding, shape=shape)
    arguments = {"input": batch.logits, "target": batch.target, **batch.maps(loss), **changed}
    arguments = {name: x for name, x in arguments.items() if x is not None}
    with pytest.raises(ValueError, match="".join(f"(?=.*{re.escape(word)})" for word in words)):
        loss(**arguments)


@pytest.mark.parametrize("encoding", [Multiclass(), Multilabel()], ids=str)
def test_a_target_of_another_shape(loss_class: Any, encoding: Any) -> None:
    right = "(2, 4, 5)" if isinstance(encoding, Multiclass) else "(2, 3, 4, 5)"
    loss = reading(encoding, loss_class)
    fails(loss, "target", "(2, 4, 6)", right, target=torch.zeros(2, 4, 6, dtype=torch.long))
    fails(loss, "target", "(2, 5, 4)", right, target=torch.zeros(2, 5, 4, dtype=torch.long))
    fails(loss, "target", "(2, 2, 4, 5)", right, target=torch.zeros(2, 2, 4, 5))


def test_a_softmax_over_one_channel(loss_class: Any) -> None:
    loss = loss_class()
    if not isinstance(loss.encoding, Multiclass):
        pytest.skip("has no softmax")
    fails(
        loss,
        "1 channel",
        "Multilabel()",
        input=torch.zeros(2, 1, 4, 5),
        target=torch.zeros(2, 4, 5),
    )


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 2, 2, 2, 2), (2, 3)], ids=str)
def test_volumes_of_one_or_four_axes(loss_class: Any, shape: tuple[int, ...]) -> None:
    words = ["input", str(shape), "two or three"]
    fails(loss_class(), *words, input=torch.zeros(shape), target=torch.zeros(2, *shape[2:]))


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 3, 0, 5)], ids=str)
def test_an_empty_batch(loss_class: Any, shape: tuple[int, ...]) -> None:
    fails(loss_class(), "input", str(shape), "nothing", shape=shape)


def test_a_label_out_of_range(loss_class: Any) -> None:
    target = torch.zeros(2, 4, 5, dtype=torch.long)
    for wrong in (3, 255, -1):
        target[1, 2, 3] = wrong
        loss = reading(Multiclass(), loss_class)
        if {"target"} & reads(loss):
            fails(loss, "target", str(wrong), "3 channels", f"ignore={wrong}", target=target)


def reads(loss: Any) -> set[str]:
    """What is made of maps alone does not look at the target, unless told what to ignore."""
    maps_alone = (BoundaryLoss, CenterlineBoundaryDiceLoss, SkeletonRecallLoss)
    return set() if isinstance(loss, maps_alone) else {"target"}


def test_labels_that_are_not_integers(loss_class: Any) -> None:
    target = torch.zeros(2, 4, 5)
    target[0, 0, 0] = 0.5
    loss = reading(Multiclass(), loss_class)
    if reads(loss):
        fails(loss, "target", "integers", "nearest", target=target)
        fails(loss, "target", "integers", target=torch.full((2, 4, 5), float("nan")))


def test_a_weight_of_another_shape(loss_class: Any) -> None:
    fails(loss_class(), "weight", "(2, 5, 4)", "(2, 4, 5)", weight=torch.ones(2, 5, 4))
    fails(
        reading(Multiclass(), loss_class), "weight", "(2, 3, 4, 5)", weight=torch.ones(2, 3, 4, 5)
    )


def test_a_missing_or_misshapen_map(loss_class: Any) -> None:
    loss = loss_class()
    for name in batch_for(loss)[1]:
        maker = {
            "skeleton": "TubedSkeleton",
            "distance": "SignedDistance",
            "instances": "InstanceRegions",
        }[name]
        fails(loss, name, "missing", maker, **{name: None})
        fails(loss, name, "(2, 7, 4, 5)", "(2, 3, 4, 5)", maker, **{name: torch.ones(2, 7, 4, 5)})
        wrong = torch.zeros(2, 3, 5, 4)
        fails(loss, name, "(2, 3, 5, 4)", maker, **{name: wrong})


def test_a_map_that_no_term_reads(loss_class: Any) -> None:
    fails(loss_class(), "'skelton'", "weight", skelton=torch.ones(2, 4, 5))
    for name in {"skeleton", "distance", "instances"} - set(batch_for(loss_class())[1]):
        fails(loss_class(), f"'{name}'", **{name: torch.ones(2, 4, 5)})


def test_class_weights_of_another_length(loss_class: Any) -> None:
    fails(
        reading(Multiclass(), loss_class, class_weight=[1.0, 2.0]),
        "class_weight",
        "2",
        "3 channels",
    )
    leaving_out = reading(Multiclass(background=False), loss_class, class_weight=[1.0, 2.0, 3.0])
    fails(leaving_out, "class_weight", "3", "expected 2")


@pytest.mark.parametrize("weights", [[1.0, -1.0], [float("nan"), 1.0], [0.0, 0.0], [float("inf")]])
def test_class_weights_that_are_none(loss_class: Any, weights: list[float]) -> None:
    with pytest.raises(ValueError, match="class_weight must") as caught:
        loss_class(class_weight=weights)
    assert re.search(r"-1|nan|0\.0|inf", str(caught.value))


@pytest.mark.parametrize(
    ("with_option", "option"), having("group", "reduction", "empty", "weighting")
)
def test_a_word_that_is_no_option(with_option: Any, option: str) -> None:
    # Run-time type checks, where they are on, say it before the package can.
    with pytest.raises((ValueError, TypeError)) as caught:
        with_option(**{option: "avg"})
    assert option in str(caught.value)
    assert "'avg'" in str(caught.value)


def _below(option: str, value: float) -> str:
    return f"(?s){option} must (.* at least 0|lie between .*|be a finite number), got {value}"


@pytest.mark.parametrize(
    ("with_option", "option"), having("smooth_nr", "smooth_dr", "alpha", "beta", "gamma")
)
def test_a_number_below_zero(with_option: Any, option: str) -> None:
    for value in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=_below(option, value)):
            with_option(**{option: value})


def test_a_negative_weight_is_not_looked_for(loss_class: Any) -> None:
    """It would cost a pass over the map; the documentation says at least 0."""
    loss = loss_class()
    batch, maps = batch_for(loss)
    value = loss(batch.logits, batch.target, weight=-torch.ones(3, 6, 5), **maps)
    # There is no density of fewer than no voxels.
    assert value.isnan().all() if loss_class is TLoss else value.isfinite().all()


def test_a_target_that_wants_a_gradient(loss_class: Any) -> None:
    fails(
        reading(Multilabel(), loss_class),
        "target",
        "detach",
        target=torch.ones(2, 3, 4, 5).requires_grad_(),
    )


def test_an_ignore_label_that_may_be_a_membership(loss_class: Any) -> None:
    """A label that is a membership too."""
    loss = reading(Multiclass(ignore=1), loss_class)
    fails(loss, "target", "ignore=1", "weight=", target=torch.zeros(2, 3, 4, 5))


def test_integers_are_no_logits(loss_class: Any) -> None:
    loss = loss_class()
    batch, maps = batch_for(loss)
    with pytest.raises(TypeError, match="input"):
        loss(batch.logits.long(), batch.target, **maps)


def test_what_is_no_tensor(loss_class: Any) -> None:
    loss = loss_class()
    batch, maps = batch_for(loss)
    # Run-time type checks, where they are on, say it before the package can.
    with pytest.raises(TypeError, match="target"):
        loss(batch.logits, batch.target.tolist(), **maps)


def test_an_encoding_that_is_none() -> None:
    for wrong in (True, "softmax", None, Multiclass):
        with pytest.raises(TypeError, match="encoding"):
            DiceLoss(wrong)  # type: ignore[arg-type]


def test_the_words_of_a_wrong_option_list_the_right_ones() -> None:
    from segloss.arguments import one_of

    with pytest.raises(ValueError, match="reduction must be one of 'mean', 'sum', got 'avg'"):
        one_of("reduction", "avg", ("mean", "sum"))


@DYNAMO
@pytest.mark.compiled
def test_compiles_to_the_same_values(loss_class: Any) -> None:
    loss = loss_class()
    batch, maps = batch_for(loss)
    # Without that, PyTorch gives up after eight losses on the code they share, and runs it as it is.
    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=loss.compiles)
    expected = value_and_gradient(loss, batch.logits, batch.target, **maps)
    assert_close(value_and_gradient(compiled, batch.logits, batch.target, **maps), expected)


@DYNAMO
@pytest.mark.compiled
def test_a_compiled_compound_is_the_same() -> None:
    loss = DiceLoss() + CrossEntropyLoss() + 0.5 * SkeletonRecallLoss() + 0.1 * BoundaryLoss()
    batch = make_batch()
    maps = batch.maps(loss, weight=True)
    compiled = torch.compile(loss, backend="aot_eager")
    expected = value_and_gradient(loss, batch.logits, batch.target, **maps)
    assert_close(value_and_gradient(compiled, batch.logits, batch.target, **maps), expected)


def test_a_module_of_losses_says_what_it_holds() -> None:
    loss = DeepSupervisionLoss(DiceLoss() + 0.5 * DiceLoss(Multiclass(background=False)))
    for word in ("DiceLoss", "background=False", "0.5"):
        assert word in repr(loss)
