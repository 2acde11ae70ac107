import math

import pytest
import torch
from torch.nn import functional as F

from llmlite import loss
from llmlite.loss import linear_cross_entropy

pytestmark = pytest.mark.usefixtures("one_thread")


def case(rows, vocab=37, width=8, spread=1.0):
    generator = torch.Generator().manual_seed(rows)
    hidden = spread * torch.randn(rows, width, generator=generator)
    weight = torch.randn(vocab, width, generator=generator)
    targets = torch.randint(vocab, (rows,), generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def reference(hidden, weight, targets):
    """The loss and its gradients from PyTorch, in float64."""
    hidden, weight = (t.detach().double().requires_grad_() for t in (hidden, weight))
    value = F.cross_entropy(hidden @ weight.t(), targets)
    return value, *torch.autograd.grad(value, (hidden, weight))


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("rows", [1, 4, 5, 13])
def test_loss_and_gradients_are_those_of_pytorch(monkeypatch, rows, onednn):
    monkeypatch.setattr(loss, "CHUNK", {"cpu": 4 * 37})  # four rows at a time
    monkeypatch.setattr(loss, "_ONEDNN", onednn and loss._ONEDNN)
    hidden, weight, targets = case(rows)
    value = linear_cross_entropy(hidden, weight, targets)
    (3 * value).backward()
    expected, d_hidden, d_weight = reference(hidden, weight, targets)
    assert value.item() == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(hidden.grad.double(), 3 * d_hidden, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(weight.grad.double(), 3 * d_weight, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("n", "most", "rows"),
    [(4096, 419, 256), (4096, 5000, 4096), (13, 4, 4), (12, 5, 4), (7, 0, 1), (1, 9, 1)],
)
def test_rows_of_a_chunk(n, most, rows):
    assert loss._rows(n, most) == rows


def test_by_hand():
    hidden = torch.tensor([[1.0, 0.0]])
    weight = torch.tensor([[0.0, 5.0], [math.log(3), 5.0]])  # logits 0 and ln 3: 1/4 and 3/4
    value = linear_cross_entropy(hidden, weight.requires_grad_(), torch.tensor([1]))
    value.backward()
    assert value.item() == pytest.approx(math.log(4 / 3))
    torch.testing.assert_close(weight.grad, torch.tensor([[0.25, 0.0], [-0.25, 0.0]]))


def test_compiled_is_the_same(monkeypatch):
    monkeypatch.setattr(loss, "CHUNK", {"cpu": 4 * 37})
    hidden, weight, targets = case(10)  # two chunks of four rows and a ragged one
    plain = linear_cross_entropy(hidden, weight, targets)
    expected = torch.autograd.grad(plain, (hidden, weight))
    fused = linear_cross_entropy(hidden, weight, targets, compiled=True)
    assert fused.item() == pytest.approx(plain.item(), abs=1e-6)
    for ours, theirs in zip(torch.autograd.grad(fused, (hidden, weight)), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_it_is_as_close_as_pytorchs_own(dtype):
    """Both round the products; ours may not be further from the exact gradient by half."""
    hidden, weight, targets = case(200, vocab=301, width=32, spread=2.0)
    _, *exact = reference(hidden, weight, targets)

    def errors(value):
        gradients = torch.autograd.grad(value, (hidden, weight))
        return [(g.double() - e).norm().item() for g, e in zip(gradients, exact, strict=True)]

    with torch.autocast("cpu", dtype):
        ours = linear_cross_entropy(hidden, weight, targets)
        theirs = F.cross_entropy((hidden @ weight.t()).float(), targets)
    assert ours.dtype == torch.float32
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-3)
    for our, their in zip(errors(ours), errors(theirs), strict=True):
        assert 0 < our < 1.5 * their


def test_a_gradient_scale_does_not_underflow_in_float16():
    hidden, weight, targets = case(4096)
    with torch.autocast("cpu", torch.float16):
        value = linear_cross_entropy(hidden, weight, targets)
    value.backward()
    _, d_hidden, _ = reference(hidden, weight, targets)
    assert (hidden.grad == 0).float().mean() < 0.01  # 1/4096 of a small probability
    assert (hidden.grad.double() - d_hidden).norm() < 0.01 * d_hidden.norm()


def test_huge_logits_stay_finite_and_certain_predictions_keep_a_gradient():
    hidden = torch.tensor([[1000.0, 0.0]], requires_grad=True)
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    value = linear_cross_entropy(hidden, weight, torch.tensor([1]))
    value.backward()
    assert value.item() == 1000
    torch.testing.assert_close(hidden.grad, torch.tensor([[1.0, -1.0]]))
