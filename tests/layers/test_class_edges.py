"""Edges between classes: one product, sparse, traced and in narrow types."""

from __future__ import annotations

import pytest
import torch

from relation_heads.layers.reasoning.class_edges import ClassEdges


def matrix():
    dense = torch.rand(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return dense * (dense > 0.5)


@pytest.mark.parametrize("form", ["dense", "COO", "CSR"])
def test_the_product_and_its_gradient(form):
    dense = matrix()
    made = {"dense": dense, "COO": dense.to_sparse_coo(), "CSR": dense.to_sparse_csr()}[form]
    edges = ClassEdges(made)
    values = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    expected = dense @ values
    torch.testing.assert_close(edges(values), expected, rtol=1e-12, atol=1e-12)
    found, truth = (
        torch.autograd.grad(y.sin().sum(), values)[0] for y in (edges(values), expected)
    )
    torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-12)
    assert edges.state_dict() == {} and not list(edges.parameters())


def test_narrow_values_are_widened():
    edges, values = ClassEdges(matrix()), torch.randn(6, 3)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = edges(values.to(dtype))
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual, matrix().float() @ values.to(dtype).float())


def test_traced():
    edges, values = ClassEdges(matrix()), torch.randn(6, 3, dtype=torch.float64)
    expected = edges(values)
    torch.testing.assert_close(torch.jit.trace(edges, values)(values), expected)
