import pytest
import torch

from relation_heads.layers import Regions
from relation_heads.layers.sgrn.sparse_graph import sum_over_neighbors, top_neighbors

SIZE = (100, 100)


def make_regions(counts, keys=None):
    return Regions.from_boxes([torch.rand(n, 4) for n in counts], [SIZE] * len(counts), keys)


def test_neighbours_are_the_highest_scores_of_the_own_image():
    z = torch.randn(9, 4)
    keys = [torch.tensor([True, False, True, True, True]), torch.ones(4, dtype=torch.bool)]
    bias = torch.randn(9)
    regions = make_regions((5, 4), keys)
    graph = top_neighbors(z, regions, 3, bias)
    for i in range(9):
        image = range(5) if i < 5 else range(5, 9)
        scored = [(float(z[i] @ z[j] + bias[j]), j) for j in image if regions.is_key[j]]
        expected = sorted(scored, reverse=True)[:3]
        assert graph.neighbors[i].tolist() == [j for _, j in expected]
        torch.testing.assert_close(graph.scores[i], torch.tensor([e for e, _ in expected]))
    assert graph.valid.all()


def test_images_with_fewer_keys_have_empty_places():
    keys = [torch.tensor([True, True]), torch.tensor([False, True, False]), torch.tensor([False])]
    graph = top_neighbors(torch.rand(6, 4), make_regions((2, 3, 1), keys), 4)
    assert graph.valid.sum(1).tolist() == [2, 2, 1, 1, 1, 0]
    empty = ~graph.valid
    own = torch.arange(6)[:, None].expand(6, 4)
    assert torch.equal(graph.neighbors[empty], own[empty])
    assert (graph.scores[empty] == -torch.inf).all()


def test_scores_have_gradients_and_choices_have_none():
    z = torch.randn(5, 4, requires_grad=True)
    graph = top_neighbors(z, make_regions((5,)), 2)
    graph.scores.sum().backward()
    expected = torch.zeros(5, 4)
    for i in range(5):
        for j in graph.neighbors[i].tolist():
            expected[i] += z[j].detach()
            expected[j] += z[i].detach()
    torch.testing.assert_close(z.grad, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_are_float32_under_autocast(dtype):
    z = 300 * torch.rand(5, 64)  # the dot products overflow float16
    with torch.autocast("cpu", dtype=dtype):
        graph = top_neighbors(z.to(dtype), make_regions((5,)), 2)
    assert graph.scores.dtype == torch.float32 and graph.scores.isfinite().all()


@pytest.mark.parametrize("shape", [(6, 3, 4, 5), (1, 2, 1, 3), (0, 3, 4, 5)], ids=str)
def test_sum_over_neighbours_and_its_gradients(shape):
    n, t, k, m = shape
    values = torch.randn(n, k, m, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(n, t, k, dtype=torch.float64, requires_grad=True)
    neighbors = torch.randint(max(n, 1), (n, t))
    expected = torch.zeros(n, k, m, dtype=torch.float64)
    for i in range(n):
        for place in range(t):
            for kernel in range(k):
                row = values[neighbors[i, place], kernel].detach()
                expected[i, kernel] += weights[i, place, kernel].detach() * row
    torch.testing.assert_close(sum_over_neighbors(values, neighbors, weights), expected)
    total = sum_over_neighbors(values, neighbors, weights, sum_kernels=True)
    torch.testing.assert_close(total, expected.sum(1))
    if n:
        assert torch.autograd.gradcheck(
            lambda v, w: sum_over_neighbors(v, neighbors, w, sum_kernels=True), (values, weights)
        )
        assert torch.autograd.gradcheck(
            lambda v, w: sum_over_neighbors(v, neighbors, w), (values, weights)
        )
