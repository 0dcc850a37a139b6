"""AdaWAC: the balance of labels and consistency, and the weights that move it."""

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, one_hot
from torch.testing import assert_close

from segloss import Multiclass
from segloss.pseudo import AdaWACLoss

SPACES = [(6, 4), (4, 6, 2)]
Views = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


def views(*space: int, b: int = 3, c: int = 3, seed: int = 0) -> Views:
    """Logits, labels and features of two views."""
    rng = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, b, c, *space, generator=rng, dtype=torch.float64)
    labels = torch.randint(c, (2, b, *space), generator=rng)
    features = torch.randn(2, b, 5, *[2] * len(space), generator=rng, dtype=torch.float64)
    leaves = [x.clone().requires_grad_() for x in (*logits, *features)]
    return (leaves[0], leaves[1]), (labels[0], labels[1]), (leaves[2], leaves[3])


def squared_dice(logits: Tensor, labels: Tensor) -> Tensor:
    p, y = logits.softmax(1), one_hot(labels, logits.shape[1]).movedim(-1, 1)
    scores = []
    for k in range(logits.shape[1]):
        size = (p[:, k] ** 2).sum() + (y[:, k] ** 2).sum()
        scores.append(1 - (2 * (p[:, k] * y[:, k]).sum() + 1e-5) / (size + 1e-5))
    return torch.stack(scores).mean()


def published(
    weights: Tensor, data: Views, index: Tensor, rate: float, consistency: float, ratio: float
) -> Tensor:
    """The loss as the authors compute it; moves the weights, products of exponentials."""
    logits, labels, features = data
    ce = [
        cross_entropy(z, y, reduction="none").flatten(1).mean(1)
        for z, y in zip(logits, labels, strict=True)
    ]
    surprise = (ce[0] + ce[1]) / 2
    apart = consistency * ((features[0] - features[1]) ** 2).flatten(1).mean(1)
    dice = (squared_dice(logits[0], labels[0]) + squared_dice(logits[1], labels[1])) / 2
    moved = weights[index]
    moved[:, 0] *= torch.exp(rate * (surprise - apart)).detach()
    weights[index] = normalize(moved, p=1, dim=1)
    w = weights[index]
    mixed = surprise * w[:, 0] + apart * w[:, 1]
    return torch.stack([ratio * dice + (1 - ratio) * x for x in mixed]).mean()


@pytest.mark.parametrize("space", SPACES)
def test_short_runs_as_published(space: tuple[int, ...]) -> None:
    loss = AdaWACLoss(6, rate=0.7, consistency=2.0, dice_ratio=0.3).double()
    weights = torch.full((6, 2), 0.5, dtype=torch.float64)
    for step, index in enumerate([[0, 3, 5], [5, 1, 0], [0, 3, 2], [0, 1, 5]]):
        data, numbers = views(*space, seed=step), torch.tensor(index)
        leaves = (*data[0], *data[2])
        expected = published(weights, data, numbers, 0.7, 2.0, 0.3)
        value = loss(*data, numbers)
        assert_close(value, expected)
        for mine, theirs in zip(
            torch.autograd.grad(value, leaves), torch.autograd.grad(expected, leaves), strict=True
        ):
            assert_close(mine, theirs)
        assert_close(loss.log_weights.exp(), weights)
        assert_close(loss.log_weights.exp().sum(1), torch.ones(6).double())
    assert_close(loss.log_weights[4].exp(), torch.tensor([0.5, 0.5]).double())  # never seen


def steady(surprise: bool) -> Views:
    """One sample whose cross entropy is ln 2 or 0, and whose consistency is 0 or ln 2."""
    logits = torch.zeros(1, 2, 2, 2)
    logits[:, 0] = 0.0 if surprise else 1e4
    apart = torch.full((1, 1, 1, 1), 0.0 if surprise else 0.6931471805599453**0.5)
    labels = torch.zeros(1, 2, 2, dtype=torch.long)
    return (logits, logits), (labels, labels), (apart, torch.zeros_like(apart))


def test_weights_recover_where_the_published_ones_lock() -> None:
    index = torch.tensor([0])
    loss = AdaWACLoss(1)
    weights = torch.full((1, 2), 0.5)
    for surprise in (True, False):
        for _ in range(160):
            loss(*steady(surprise), index)
            published(weights, steady(surprise), index, 1.0, 1.0, 0.5)
        if surprise:
            assert weights[0, 1] == 0  # exactly: no factor brings it back
    assert_close(loss.log_weights.exp(), torch.tensor([[0.5, 0.5]]), rtol=1e-2, atol=1e-2)
    for _ in range(10):
        loss(*steady(False), index)
        published(weights, steady(False), index, 1.0, 1.0, 0.5)
    assert loss.log_weights[0, 1].exp() > 0.99
    assert weights[0, 1] == 0


def test_one_extreme_step_leaves_weights() -> None:
    loss = AdaWACLoss(1, rate=1e6)
    value = loss(*steady(True), torch.tensor([0]))
    assert value.isfinite()
    assert_close(loss.log_weights.exp(), torch.tensor([[1.0, 0.0]]))


def test_weights_move_in_training_only_and_are_saved() -> None:
    data, index = views(4, 4), torch.tensor([2, 0, 1])
    loss = AdaWACLoss(3)
    loss.eval()
    loss(*data, index)
    assert_close(loss.log_weights.exp(), torch.full((3, 2), 0.5))
    loss.train()
    loss(*data, index)
    fresh = AdaWACLoss(3)
    fresh.load_state_dict(loss.state_dict())
    assert torch.equal(fresh(*data, index), loss(*data, index))
    assert torch.equal(fresh.log_weights, loss.log_weights)
    assert torch.equal(pickle.loads(pickle.dumps(loss)).log_weights, loss.log_weights)


def test_terms_are_what_was_added_up() -> None:
    data, index = views(4, 4), torch.tensor([2, 0, 1])
    loss = AdaWACLoss(3, rate=0.0)  # weights stay at one half
    value = loss(*data, index)
    terms = loss.terms
    half = (terms["cross_entropy"] + terms["consistency"]) / 2
    assert_close(value.detach(), (terms["dice"] + half) / 2)
    assert terms["share"] == 0.5
    assert not any(x.requires_grad for x in terms.values())


def test_gradients_by_finite_differences() -> None:
    (z1, z2), labels, (f1, f2) = views(2, 2, b=1)
    loss = AdaWACLoss(1).eval()

    def of_leaves(*x: Tensor) -> Any:
        return loss((x[0], x[1]), labels, (x[2], x[3]), torch.tensor([0]))

    assert torch.autograd.gradcheck(of_leaves, (z1, z2, f1, f2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_low_precision_and_huge_logits(dtype: torch.dtype, size: float) -> None:
    logits, labels, features = views(4, 4)
    z = [(size * x.detach().sign()).to(dtype).requires_grad_() for x in logits]
    f = [x.detach().sign().mul(min(size, 200)).to(dtype).requires_grad_() for x in features]
    value = AdaWACLoss(3)((z[0], z[1]), labels, (f[0], f[1]), torch.arange(3))
    wide = [x.detach().double() for x in (*z, *f)]
    exact = AdaWACLoss(3)((wide[0], wide[1]), labels, (wide[2], wide[3]), torch.arange(3))
    assert value.dtype == torch.float32
    assert_close(value.double(), exact, rtol=1e-5, atol=1e-6)
    for gradient in torch.autograd.grad(value, (*z, *f)):
        assert gradient.isfinite().all()


def test_a_sample_that_is_ignored_learns_from_consistency() -> None:
    logits, labels, features = views(4, 4)
    void = (labels[0].clone().fill_(255), labels[1].clone().fill_(255))
    loss = AdaWACLoss(3, Multiclass(ignore=255))
    value = loss(logits, void, features, torch.arange(3))
    assert value.isfinite()
    assert (loss.log_weights[:, 1] > loss.log_weights[:, 0]).all()
    assert loss.terms["cross_entropy"] == loss.terms["dice"] == 0


def test_what_is_wrong_is_named() -> None:
    logits, labels, features = views(4, 4)
    loss = AdaWACLoss(3)
    with pytest.raises(ValueError, match=r"index holds \[0, 1, 3\], expected numbers from 0 to 2"):
        loss(logits, labels, features, torch.tensor([0, 1, 3]))
    with pytest.raises(ValueError, match=r"index holds \[0, 1, 1\]: a sample may be in a batch on"):
        loss(logits, labels, features, torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match=r"index has shape \(2,\) and dtype torch.int64"):
        loss(logits, labels, features, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="second view's features have shape"):
        loss(logits, labels, (features[0], features[1][:, :2]), torch.arange(3))
    with pytest.raises(ValueError, match="samples must be a whole number of at least 1, got 0"):
        AdaWACLoss(0)
    with pytest.raises(ValueError, match="dice_ratio must lie between 0 and 1, got 2"):
        AdaWACLoss(3, dice_ratio=2)
