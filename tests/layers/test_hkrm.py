"""HKRM's relation against its reference, in memory that does not grow with pairs times channels."""

from __future__ import annotations

import pytest
import torch

from relation_heads.layers import DifferenceRelation, Regions
from relation_heads.layers.arguments import ArgumentError
from relation_heads.layers.hkrm import difference_relation as code
from relation_heads.layers.hkrm import prior_loss
from tests.layers import reference_hkrm as reference

D, SIZE = 6, (90, 90)


def make(**options):
    torch.manual_seed(0)
    return DifferenceRelation(D, channels=4, hidden=(5, 3), **options).double()


def inputs(counts=(4, 3), keys=None):
    generator = torch.Generator().manual_seed(1)
    f = torch.randn(sum(counts), D, generator=generator, dtype=torch.float64, requires_grad=True)
    boxes = [torch.rand(n, 4, generator=generator) for n in counts]
    return f, Regions.from_boxes(boxes, [SIZE] * len(counts), keys)


@pytest.mark.parametrize("block", [1, D * 4, code.BLOCK])
@pytest.mark.parametrize("some", [False, True])
def test_equals_the_reference_with_gradients(monkeypatch, block, some):
    monkeypatch.setattr(code, "BLOCK", block)
    keys = [torch.tensor([True, False, True, True]), torch.tensor([False, True, True])]
    module, (f, regions) = make(), inputs(keys=keys if some else None)
    weight, leaves = dict(module.named_parameters()), [f, *module.parameters()]
    mine, edges = module(f, regions)
    theirs = [
        reference.relate_image(weight, own, key.tolist() if some else [True] * len(own))
        for own, key in zip(regions.split(f), keys, strict=True)
    ]
    expected = torch.cat([out for out, _ in theirs])
    torch.testing.assert_close(mine, expected, rtol=0, atol=1e-12)
    for a, (_, wanted) in zip(edges, theirs, strict=True):
        torch.testing.assert_close(a, wanted, rtol=0, atol=1e-12)
    labels, prior = [torch.tensor([0, 2, 3, 1]), torch.tensor([-1, 1, 1])], torch.rand(3, 3)
    prior = prior.double()
    loss = prior_loss(edges, labels, prior)
    wanted = reference.prior_loss([a for _, a in theirs], [x.tolist() for x in labels], prior)
    torch.testing.assert_close(loss, wanted, rtol=0, atol=1e-12)
    ours = torch.autograd.grad(mine.square().sum() + loss, leaves)
    right = torch.autograd.grad(expected.square().sum() + wanted, leaves)
    for a, b in zip(ours, right, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_the_edges_train_no_features():
    module, (f, regions) = make(), inputs()
    _, edges = module(f, regions)
    assert torch.autograd.grad(sum(a.sum() for a in edges), f, allow_unused=True) == (None,)


def test_no_image_sees_another_one_and_order_does_not_matter():
    module, (f, regions) = make(), inputs((4, 0, 1, 3))
    together, _ = module(f, regions)
    alone = [
        module(own, Regions.from_boxes([box], [SIZE]))[0]
        for own, box in zip(regions.split(f), regions.split(regions.boxes), strict=True)
    ]
    torch.testing.assert_close(torch.cat(alone), together, rtol=0, atol=1e-12)
    order = torch.tensor([2, 0, 3, 1])
    mixed, _ = module(f[:4][order], Regions.from_boxes([regions.boxes[:4]], [SIZE]))
    torch.testing.assert_close(mixed, together[:4][order], rtol=0, atol=1e-12)


def test_an_image_without_keys_hears_nothing_and_no_pairs_are_no_loss():
    module = make()
    f, regions = inputs((2, 1), [torch.zeros(2).bool(), torch.ones(1).bool()])
    heard, edges = module(f, regions)
    assert not heard[:2].any() and heard[2].any()
    background = [torch.tensor([3, 3]), torch.tensor([-1])]
    assert prior_loss(edges, background, torch.rand(3, 3)) == 0


def test_memory_is_a_tenth_of_that_of_all_differences():
    """Numbers that are kept for backward, and the largest tensor that is made on the way."""
    n, d = 96, 64
    module = DifferenceRelation(d, channels=8, hidden=(16, 8))
    f, regions = torch.randn(n, d), Regions.from_boxes([torch.rand(n, 4)], [SIZE])
    kept, made = {}, []
    for layer in module.edge:
        layer.register_forward_pre_hook(lambda _, args: made.append(args[0].numel()))
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.update({t.data_ptr(): t.numel()}) or t, lambda t: t
    ), pytest.MonkeyPatch.context() as patch:  # fmt: skip
        patch.setattr(code, "BLOCK", 2**14)
        heard, _ = module(f, regions)
    heard.sum().backward()
    assert sum(kept.values()) < n * n * d / 10
    assert max(made) <= 2**14 < n * n * d / 10


def test_wrong_arguments():
    with pytest.raises(ArgumentError) as caught:
        DifferenceRelation(0, channels=0, hidden=(3, 0))
    assert [w.argument for w in caught.value.wrong] == ["dim", "channels", "hidden"]


def test_parameters_of_the_release():
    with torch.device("meta"):
        module = DifferenceRelation(1024)
    expected = 1025 * 256 + 257 * 128 + 129 * 64 + 65 + 1025 * 256
    assert sum(p.numel() for p in module.parameters()) == expected
