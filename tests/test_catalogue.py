"""The table of all losses, and that it is right about each of them."""

import inspect
import math
import re
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

import pytest
import torch
from torch import Tensor

import segloss
from segloss import (
    CenterlineBoundaryDiceLoss,
    LabelSpace,
    LabelTree,
    LeafSoftmax,
    Loss,
    MaxConstraint,
    MultiLevelActivation,
    Tree,
    list_losses,
)
from segloss.catalogue import CATALOGUE, Entry
from tests.strategies import NARROW, TOPOLOGY, catalogued, make_batch
from tests.test_packaging import ROOT

each_entry = pytest.mark.parametrize("entry", CATALOGUE.values(), ids=lambda x: x.name)


def test_every_loss_is_in_the_catalogue() -> None:
    public = [getattr(segloss, name) for name in segloss.__all__]
    losses = {x.__name__ for x in public if inspect.isclass(x) and issubclass(x, Loss)}
    abstract = {"Loss", "RegionLoss", "VoxelLoss"}
    assert {entry.loss_name for entry in CATALOGUE.values()} == losses - abstract
    assert len(segloss.catalogue._ENTRIES) == len(CATALOGUE)


def test_every_loss_is_tested_as_all_are_or_has_tests_of_its_own() -> None:
    """`catalogued` is what the suites run over; whatever is not in it is named here."""
    apart = {entry.loss for entry in CATALOGUE.values()} - {*catalogued()}
    of_trees = {entry.loss for entry in CATALOGUE.values() if "encoding" in entry.needs}
    assert apart == {*of_trees, *NARROW} - {*catalogued()}


@each_entry
def test_texts_are_short_and_the_docstring_says_the_source_and_the_range(entry: Entry) -> None:
    for text in (entry.formula, entry.use, entry.beside, entry.source):
        assert text == text.strip() and not text.endswith(".") and len(text) <= 100
    assert entry.use and entry.formula
    docstring = entry.loss.__doc__
    references = docstring.partition("References:")[2]
    assert bool(references) == bool(entry.source)
    assert re.split(r"[ ,]", entry.source)[0] in references  # the first author
    assert re.search(r"[Ff]rom 0|negative", docstring)


def an_encoding(kind: Any, name: str) -> Any:
    """One that a loss takes which reads no other."""
    tree = LabelTree({"liver": {"tumour": None}})
    space = LabelSpace(tree, {"livers": {0: "background", 1: "liver"}})
    if kind is not Tree:
        return kind(space)
    activations = {"MultiLevelLoss": MultiLevelActivation(), "TreeMinLoss": MaxConstraint()}
    activations["MaxConstraintLoss"] = MaxConstraint("max")
    return Tree(tree, activations.get(name, LeafSoftmax()))


@each_entry
def test_what_a_loss_must_be_told(entry: Entry) -> None:
    """The catalogue takes it that such a loss reads no map."""
    given: dict[str, Any] = {"prior": [0.5, 0.5]} if "prior" in entry.needs else {}
    if "encoding" in entry.needs:
        kind = inspect.signature(entry.loss).parameters["encoding"].annotation
        given["encoding"] = an_encoding(kind, entry.loss_name)
    assert given.keys() == {*entry.needs}
    loss = entry.loss(**given)
    assert tuple(sorted(loss.request.maps | loss.reads)) == entry.maps
    assert segloss.build(entry.name, **given) if given.keys() <= {"encoding"} else True


@pytest.mark.parametrize(
    "loss_class", [x for x in catalogued() if x not in TOPOLOGY], ids=lambda x: x.__name__
)
def test_the_range_is_right(loss_class: Any) -> None:
    (entry,) = (x for x in CATALOGUE.values() if x.loss is loss_class)
    values = []
    for seed, scale, present in [(0, 1.0, 3), (1, 8.0, 2), (2, 50.0, 1), (3, 0.0, 3)]:
        loss = loss_class(reduction="none")
        batch = make_batch(
            loss.encoding, shape=(2, 3, 16, 16), seed=seed, scale=scale, present=present
        )
        maps = batch.maps(loss, weight=True)
        values += [
            loss(logits, batch.target, **maps).flatten()
            for logits in (
                batch.logits,
                certain(loss.encoding, batch, shift=0),
                certain(loss.encoding, batch, shift=1),
            )
        ]
    seen: Tensor = torch.cat(values)
    assert (seen >= entry.low - 1e-9).all() and (seen <= entry.high + 1e-9).all()
    if entry.negative and loss_class is not CenterlineBoundaryDiceLoss:  # which seldom is
        assert seen.min() < 0
    elif entry.high == math.inf:
        assert seen.max() > 1


def certain(encoding: Any, batch: Any, shift: int) -> Tensor:
    """Logits that say the target, or another class with confidence."""
    if batch.target.shape == batch.logits.shape:
        says: Tensor = (batch.target + shift) % 2 == 1
        return 100 * says.double() - 50
    classes = torch.arange(batch.logits.shape[1]).view(1, -1, 1, 1)
    says = classes == (batch.target[:, None] + shift) % 3
    return 50 * says.double()


def test_lists_by_family_and_by_map() -> None:
    assert list_losses() == tuple(CATALOGUE)
    assert list_losses("instances") == ("connected_component_dice", "blob")
    assert {"skeleton_recall", "centerline_dice"} <= {*list_losses(map="skeleton")}
    assert not {"dice", "boundary"} & {*list_losses(map="skeleton")}
    assert list_losses("instances", map="skeleton") == ()
    with pytest.raises((ValueError, TypeError), match="family"):
        list_losses("overlaps")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"map must be one of .*'distance', .*got 'bone'"):
        list_losses(map="bone")


def test_prints_a_line_for_each() -> None:
    lines = str(list_losses()).splitlines()
    assert [line.split()[0] for line in lines] == list(list_losses())
    assert str(list_losses("overlap", map="skeleton")) == ""


def test_the_page_of_all_losses_is_of_today() -> None:
    spec = spec_from_file_location("loss_table", ROOT / "docs" / "loss_table.py")
    assert spec and spec.loader
    table = module_from_spec(spec)
    spec.loader.exec_module(table)
    text = table.PAGE.read_text()
    assert table.page(text) == text, "write it anew: python docs/loss_table.py"
