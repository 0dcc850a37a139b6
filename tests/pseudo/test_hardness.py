"""Hardness weights: who gets which gradient, and what the weights are."""

from typing import Any, Literal

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torch.testing import assert_close

from segloss import Multiclass, Multilabel
from segloss.pseudo import HardnessBranch, HardnessWeightedLoss

SPACES = [(6, 4), (4, 6, 2)]
IGNORED = 255


def batch(
    *space: int, b: int = 2, c: int = 3, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels, and hardness at half the resolution."""
    rng = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(b, c, *space, generator=rng, dtype=torch.float64)
    labels = torch.randint(c, (b, *space), generator=rng)
    coarse = [n // 2 for n in space]
    hardness = torch.randn(b, 1, *coarse, generator=rng, dtype=torch.float64)
    return logits.to(dtype).requires_grad_(), labels, hardness.to(dtype).requires_grad_()


def reference(
    logits: Tensor,
    labels: Tensor,
    hardness: Tensor,
    group: str,
    counts: Tensor,
    offset: float = 0.1,
    scale: float = 0.01,
) -> Tensor:
    """Both terms, literally, sample by sample or at once."""
    mode = "bilinear" if logits.ndim == 4 else "trilinear"
    hard = interpolate(hardness, labels.shape[1:], mode=mode, align_corners=False)[:, 0]
    hard = (1 / (1 + (-hard).exp()) + offset) * counts
    surprise = cross_entropy(logits, labels * (counts > 0), reduction="none")
    chunks = [slice(i, i + 1) for i in range(len(labels))] if group == "sample" else [slice(None)]
    total = logits.new_zeros(())
    for chunk in chunks:
        share = hard[chunk] / hard[chunk].sum()
        total = total + (share.detach() * surprise[chunk]).sum()
        total = total - scale * (share * surprise[chunk].detach()).sum()
    return total / len(chunks)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("group", ["batch", "sample"])
@pytest.mark.parametrize("ignore", [None, IGNORED])
def test_is_as_defined(
    space: tuple[int, ...], group: Literal["batch", "sample"], ignore: int | None
) -> None:
    logits, labels, hardness = batch(*space)
    counts = torch.ones_like(labels)
    if ignore is not None:
        counts = (torch.rand(labels.shape, generator=torch.Generator().manual_seed(3)) < 0.7).long()
    loss = HardnessWeightedLoss(Multiclass(ignore=ignore), group=group)
    value = loss(logits, torch.where(counts > 0, labels, IGNORED), hardness)
    expected = reference(logits, labels, hardness, group, counts)
    assert_close(value, expected)
    for mine, theirs in zip(
        torch.autograd.grad(value, (logits, hardness)),
        torch.autograd.grad(expected, (logits, hardness)),
        strict=True,
    ):
        assert_close(mine, theirs)
    assert_close(sum(loss.terms.values()), value.detach())


def test_weights_of_pseudo_labels_and_no_background() -> None:
    logits, labels, hardness = batch(6, 4)
    keep = torch.rand(labels.shape, generator=torch.Generator().manual_seed(3)) < 0.7
    value = HardnessWeightedLoss()(logits, labels, hardness, weight=keep)
    assert_close(value, reference(logits, labels, hardness, "batch", keep.long()))
    value = HardnessWeightedLoss(Multiclass(background=False))(logits, labels, hardness)
    assert_close(value, reference(logits, labels, hardness, "batch", (labels > 0).long()))


def test_equal_hardness_is_the_plain_mean_even_where_half_is_ignored() -> None:
    """In the authors' code the ignored voxels keep their share of the weight."""
    logits, labels, _ = batch(6, 4)
    flat = torch.full((2, 1, 3, 2), 0.3, dtype=torch.float64)
    loss = HardnessWeightedLoss(Multiclass(ignore=IGNORED))
    loss(logits, labels, flat)
    assert_close(loss.terms["segmentation"], cross_entropy(logits, labels).detach())
    half = labels.clone()
    half[:, :3] = IGNORED
    loss(logits, half, flat)
    expected = cross_entropy(logits, half, ignore_index=IGNORED).detach()
    assert_close(loss.terms["segmentation"], expected)
    surprise = cross_entropy(logits, half, ignore_index=IGNORED, reduction="none").detach()
    assert_close(surprise.mean(), expected / 2)  # theirs: half of it


def test_hardness_rises_where_the_loss_is_above_the_mean() -> None:
    logits, labels, _ = batch(6, 4)
    hardness = torch.randn(2, 1, 6, 4, dtype=torch.float64).requires_grad_()
    loss = HardnessWeightedLoss()
    (gradient,) = torch.autograd.grad(loss(logits, labels, hardness), hardness)
    surprise = cross_entropy(logits, labels, reduction="none").detach()
    harder = surprise > loss.terms["segmentation"]
    assert torch.equal(gradient[:, 0] < 0, harder)
    assert harder.any() and not harder.all()


def test_no_voxel_weighs_more_than_eleven_times_another() -> None:
    logits = torch.zeros(1, 2, 1, 2, dtype=torch.float64, requires_grad=True)
    labels = torch.zeros(1, 1, 2, dtype=torch.long)
    hardness = torch.tensor([[[[1e4, -1e4]]]], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(HardnessWeightedLoss()(logits, labels, hardness), logits)
    assert_close(gradient[0, 0, 0, 0] / gradient[0, 0, 0, 1], torch.tensor(11.0).double())


@pytest.mark.parametrize("dims", [2, 3])
def test_the_branch_learns_from_its_term_only(dims: Any) -> None:
    torch.manual_seed(0)
    convolution = (nn.Conv2d, nn.Conv3d)[dims - 2]
    backbone, head, branch = convolution(1, 4, 1), convolution(4, 2, 1), HardnessBranch(dims, 4, 8)
    image, labels = torch.randn(2, 1, *[4] * dims), torch.randint(2, (2, *[4] * dims))
    features = backbone(image)
    hardness = branch(features)
    assert not hardness.any()
    loss = HardnessWeightedLoss()
    loss(head(features), labels, hardness).backward()
    gradients = {id(x): x.grad for x in (*backbone.parameters(), *head.parameters())}
    assert all(x.grad is not None for x in branch.parameters())
    last: Any = branch[-1]
    assert last.weight.grad.any()
    for x in (*backbone.parameters(), *head.parameters()):
        x.grad = None
    cross_entropy(head(backbone(image)), labels).backward()  # at first all are equally hard
    for x in (*backbone.parameters(), *head.parameters()):
        assert_close(gradients[id(x)], x.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [1.0, 5e3])
def test_low_precision_and_huge_logits(dtype: torch.dtype, size: float) -> None:
    logits, labels, hardness = batch(4, 4, dtype=dtype)
    logits = (size * logits.detach().sign()).requires_grad_()
    hardness = (size * hardness.detach().sign()).requires_grad_()
    loss = HardnessWeightedLoss()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(logits, labels, hardness)
    exact = loss(logits.detach().double(), labels, hardness.detach().double())
    assert value.dtype == torch.float32
    assert_close(value.double(), exact, rtol=1e-5, atol=1e-6)
    for gradient in torch.autograd.grad(value, (logits, hardness)):
        assert gradient.isfinite().all()


def test_all_ignored_is_zero() -> None:
    logits, labels, hardness = batch(4, 4)
    value = HardnessWeightedLoss(Multiclass(ignore=IGNORED))(
        logits, torch.full_like(labels, IGNORED), hardness
    )
    assert value == 0
    for gradient in torch.autograd.grad(value, (logits, hardness)):
        assert not gradient.any()


def test_metadata_is_left_behind() -> None:
    logits, labels, hardness = batch(4, 4)
    plain = HardnessWeightedLoss()(logits, labels, hardness)
    value = HardnessWeightedLoss()(
        MetaTensor(logits), MetaTensor(labels), MetaTensor(hardness), weight=MetaTensor(labels >= 0)
    )
    assert type(value) is Tensor
    assert_close(value, plain)


def test_what_is_wrong_is_named() -> None:
    logits, labels, hardness = batch(4, 4)
    with pytest.raises(ValueError, match=r"hardness has shape \(2, 4, 4\), expected \(2, 1, \*c"):
        HardnessWeightedLoss()(logits, labels, torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match=r"target has shape \(2, 3, 4, 4\)"):
        HardnessWeightedLoss()(logits, logits.detach().softmax(1), hardness)
    with pytest.raises(ValueError, match=r"weight has shape \(2, 4\)"):
        HardnessWeightedLoss()(logits, labels, hardness, weight=torch.ones(2, 4))
    with pytest.raises(ValueError, match="offset must be a finite number above 0"):
        HardnessWeightedLoss(offset=0)
    other: Any = {"group": "ranks"}
    with pytest.raises((ValueError, TypeError), match="group"):
        HardnessWeightedLoss(**other)
    other = Multilabel()
    with pytest.raises(TypeError, match="encoding"):
        HardnessWeightedLoss(other)
    with pytest.raises(Exception, match="4"):
        HardnessBranch(4, 8)  # type: ignore[arg-type]
