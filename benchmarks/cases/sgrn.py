"""Sparse graph and spatial graph convolution of SGRN (Xu et al. 2019), in MoNet's form.

Peers: `torch_geometric.nn.GMMConv` times the weight of the edge, where torch_geometric is
installed, and its order of operations in plain code: a message of K x E numbers for every edge. For
information: everything N x N x K, and messages of the nodes that are summed before L.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from relation_heads.layers.regions import Regions
from relation_heads.layers.sgrn.module import polar_coordinates
from relation_heads.layers.sgrn.sparse_graph import SparseGraph, sum_over_neighbors, top_neighbors
from relation_heads.layers.sgrn.spatial_graph_conv import SpatialGraphConv

from ..case import OURS, Case, Target
from ..computation import ACCURATE, Computation, errors, variants

NEIGHBORS = 32
LATENT = 256
IMAGE = (800, 1216)


class Problem:
    """Nodes x, latent z, boxes and a convolution: `<form>()` computes h."""

    def __init__(self, n: int, dim: int, out_dim: int, kernels: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(n, dim, generator=generator)
        self.z = torch.randn(n, LATENT, generator=generator).relu() / math.sqrt(LATENT)
        corners = torch.rand(n, 2, 2, generator=generator) * torch.tensor([IMAGE[1], IMAGE[0]])
        self.boxes = torch.cat([corners.amin(1), corners.amax(1) + 16], dim=1)
        torch.manual_seed(0)
        self.conv = SpatialGraphConv(
            dim,
            kernels * out_dim,
            num_kernels=kernels,
            edge_norm="none",
            kernel_norm="none",
            angle="arctan",  # GMMConv does not know that an angle is one
        )
        nn.init.uniform_(self.conv.kernels.width, 0.3, 1)

    def to(self, device: str, dtype: torch.dtype) -> Problem:
        """Itself, elsewhere."""
        self.x, self.z = (t.detach().to(device, dtype).requires_grad_() for t in (self.x, self.z))
        self.conv.to(device, dtype)
        self.regions = Regions.from_boxes([self.boxes.to(device, dtype)], [IMAGE])
        return self

    @property
    def leaves(self) -> list[Tensor]:
        return [self.x, self.z, *self.conv.parameters()]

    def edges(self) -> tuple[SparseGraph, Tensor]:
        graph = top_neighbors(self.z, self.regions, NEIGHBORS)
        return graph, polar_coordinates(self.regions, graph.neighbors, "arctan")

    def ours(self) -> Tensor:
        graph, coordinates = self.edges()
        weights = self.conv.weights(graph, coordinates)  # (N, T, K)
        return sum_over_neighbors(self._values(), graph.neighbors, weights, sum_kernels=True)

    def message_per_edge(self) -> Tensor:
        graph, coordinates = self.edges()
        values = self._values()
        weights = self.conv.weights(graph, coordinates)  # (N, T, K)
        return (values[graph.neighbors] * weights[..., None]).sum((1, 2))

    def nodes_first(self) -> Tensor:
        graph, coordinates = self.edges()
        weights = self.conv.weights(graph, coordinates)
        summed = weights.transpose(1, 2) @ self.x[graph.neighbors]  # (N, K, P)
        return torch.einsum("nkp,kep->ne", summed, self._blocks())

    def dense(self) -> Tensor:
        n = len(self.x)
        scores = self.z @ self.z.T  # (N, N)
        chosen = torch.zeros_like(scores).scatter_(1, scores.topk(NEIGHBORS).indices, 1.0)
        everyone = torch.arange(n, device=self.x.device).expand(n, n)
        coordinates = polar_coordinates(self.regions, everyone, "arctan")  # (N, N, 2)
        weights = self.conv.kernels(coordinates).exp() * (scores * chosen)[..., None]  # (N, N, K)
        summed = torch.einsum("ijk,jp->ikp", weights, self.x)
        return torch.einsum("nkp,kep->ne", summed, self._blocks())

    def _values(self) -> Tensor:
        """L_k x: (N, K, E)."""
        return self.conv.linear(self.x).unflatten(1, (self.conv.num_kernels, -1))

    def _blocks(self) -> Tensor:
        """L_k: (K, E, P)."""
        return self.conv.linear.weight.unflatten(0, (self.conv.num_kernels, -1))

    def gmm_conv(self) -> Computation | None:
        """torch_geometric's, or None where it is not installed; with parameters of its own."""
        try:
            from torch_geometric.nn import GMMConv
        except ModuleNotFoundError:
            return None

        class WeightedGMMConv(GMMConv):
            def message(self, x_j: Tensor, edge_attr: Tensor) -> Tensor:
                return super().message(x_j, edge_attr[:, :2].contiguous()) * edge_attr[:, 2:]

        kernels = self.conv.num_kernels
        dim, out_dim = self.x.shape[1], self.conv.linear.out_features // kernels
        conv = WeightedGMMConv(dim, out_dim, 2, kernels, aggr="add", root_weight=False, bias=False)
        conv.root = None  # torch_geometric 2.8.1 forgets to set it
        with torch.no_grad():
            conv.g.copy_(self.conv.linear.weight.T)
            conv.mu.copy_(self.conv.kernels.mean)
            conv.sigma.copy_(self.conv.kernels.width)
        conv.to(self.x.device)

        def function() -> Tensor:
            graph, coordinates = self.edges()
            listeners = torch.arange(len(self.x), device=self.x.device)
            edges = torch.stack([graph.neighbors.flatten(), listeners.repeat_interleave(NEIGHBORS)])
            attributes = torch.cat([coordinates, graph.scores[..., None]], dim=2)
            return conv(self.x, edges, attributes.flatten(0, 1))

        return Computation(function, [self.x, self.z, *conv.parameters()])


def accuracy() -> dict[str, float]:
    """Against the dense form, at a size at which it is quick."""

    def problem(dtype: torch.dtype) -> Problem:
        return Problem(200, 128, 64, 8).to("cpu", dtype)

    forms = {
        dtype: Computation(p.ours, p.leaves)
        for dtype in (torch.float32, torch.float64)
        for p in [problem(dtype)]
    }
    truth = problem(torch.float64)
    return errors(forms, Computation(truth.dense, truth.leaves))


def large(device: str) -> Case:
    """N = 1000 regions, K = 25 kernels, P = 1024, E = 256."""
    problem = Problem(1000, 1024, 256, 25).to(device, torch.float32)
    leaves = problem.leaves
    forms = {
        OURS: Computation(problem.ours, leaves),
        "message per edge": Computation(problem.message_per_edge, leaves),
        "nodes first": Computation(problem.nodes_first, leaves, is_peer=False),
        "dense": Computation(problem.dense, leaves, is_peer=False),
    }
    gmm_conv = problem.gmm_conv()
    if gmm_conv is not None:
        forms["GMMConv"] = gmm_conv
    target = Target(
        forward=6, backward=4, forward_memory=1 / 25, backward_memory=1 / 16, errors=ACCURATE
    )
    return Case(variants(forms), target, accuracy)


CASES = {"SGRN graph convolution, N=1000, K=25": large}
