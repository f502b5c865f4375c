"""SGRN: a sparse graph over regions, learned from features, spatial Gaussian kernels on its edges.

Source: Xu et al., "Spatial-aware Graph Relation Network for Large-scale Object Detection", CVPR
2019; the authors' released code (chanyn/Reasoning-RCNN, `sgrn.py`, Apache-2.0) where it says more;
its graph learner and convolution follow Norcliffe-Brown et al., arXiv 1806.07243, and MoNet (Monti
et al., arXiv 1611.08402).

    z_i  = relu(W_2 relu(W_1 f_i))                       latent space of the relation learner
    e_ij = z_i . z_j;  N(i) = the T regions j of largest e_ij
    x_i  = softmax(s_i) P                                P: [W, b] of the base classifier, s: scores
    u_ij = (d, theta)                                    centre of j seen from i, polar
    w_k  = exp(-1/2 (u - mu_k)^T Sigma_k^-1 (u - mu_k))
    h_i  = concat_k L_k sum_{j in N(i)} w_k(u_ij) e_ij x_j

Two such layers with a ReLU after each; [f, h] goes to a new classifier and box regressor. As in the
released code e is a softmax over N(i) and w sums to 1 over the kernels, which is written here as a
softmax of the exponents (equal, and it cannot underflow); `edge_weights` says what else can be
chosen. L_k is applied before the sum (it commutes), so that no (N, T, D) tensor exists.

Shapes: N regions of B images concatenated, D feature channels, C classes and the background, P
channels of a node, T neighbours, K kernels, E channels of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import Wrong, at_least, multiple_of, one_of, require, within
from ..geometry import Angle, polar
from ..out_norm import OUT_NORMS, OutNorm, out_norm_layer
from ..precision import widen
from ..regions import Regions
from .sparse_graph import SparseGraph, top_neighbors
from .spatial_graph_conv import (
    ANGLES,
    COVARIANCES,
    EDGE_NORMS,
    KERNEL_NORMS,
    Covariance,
    EdgeNorm,
    KernelNorm,
    SpatialGraphConv,
)

Mapping = Literal["soft", "hard"]
Similarity = Literal["dot", "cosine"]
EdgeLayers = Literal["first", "all"]
CHOICES: dict[str, tuple[str, ...]] = {
    "similarity": get_args(Similarity),
    "edge_norm": EDGE_NORMS,
    "edge_layers": get_args(EdgeLayers),
    "kernel_norm": KERNEL_NORMS,
    "covariance": COVARIANCES,
    "angle": ANGLES,
    "out_norm": OUT_NORMS,
}
MAPPINGS: tuple[str, ...] = get_args(Mapping)

COSINE_SCALE = 10.0  # at the start: a cosine alone cannot make a softmax choose


def semantic_nodes(
    logits: Tensor, weight: Tensor, bias: Tensor | None = None, mapping: Mapping = "soft"
) -> Tensor:
    """x: the classifier rows of the classes that a region seems to be, (N, D) or (N, D + 1).

    Args:
        logits: (N, C + 1) scores of the base classifier.
        weight: (C + 1, D) its weights, the background's row where its logit is.
        bias: (C + 1,) its biases, the last channel of the node; None leaves them out.
        mapping: "soft", the mean of the rows under softmax(logits) (paper), or "hard", the row of
            the highest logit (released code).

    Raises:
        ArgumentError: another mapping.
    """
    require(one_of("mapping", mapping, MAPPINGS))
    pool = weight if bias is None else torch.cat([weight, bias[:, None]], dim=1)
    if mapping == "soft":
        return logits.softmax(dim=1) @ pool
    return pool[logits.argmax(dim=1)]


@torch.no_grad()
def polar_coordinates(regions: Regions, neighbors: Tensor, angle: Angle = "atan2") -> Tensor:
    """u: where the neighbours' centres are, seen from each region: (N, T, 2) as (d, theta).

    x is in widths and y in heights of the image, so d is 0 to 1.4; theta in radians. (The released
    code swaps width and height.) Without gradient: the one of d at a distance of 0 is NaN.

    Args:
        regions: N of them.
        neighbors: (N, T) rows of `regions`.
        angle: see `geometry.polar`.
    """
    boxes = widen(regions.boxes)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    relative = torch.cat(
        [
            torch.stack([c[:, 0] / width, c[:, 1] / height], dim=1)
            for c, (height, width) in zip(regions.split(centers), regions.image_sizes, strict=True)
        ]
    )  # (N, 2)
    return polar(relative[neighbors] - relative[:, None], angle)


class WeightNormLinear(nn.Module):
    """`W x + b` with the rows of W as length and direction: W = g v / |v|.

    Starts as `nn.Linear` does. (torch's own weight norm can be neither pickled nor copied.)
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        linear = nn.Linear(in_features, out_features)
        self.in_features, self.out_features = in_features, out_features
        self.weight_v = nn.Parameter(linear.weight.detach())  # (out, in)
        self.weight_g = nn.Parameter(linear.weight.detach().norm(dim=1, keepdim=True))  # (out, 1)
        self.bias = nn.Parameter(linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_features) to (N, out_features)."""
        return F.linear(x, torch._weight_norm(self.weight_v, self.weight_g), self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}"


class RelationLearner(nn.Module):
    """Features to the latent space in which edges are scored; weight-normalised (released code)."""

    def __init__(self, dim: int, latent_dim: int = 256, similarity: Similarity = "dot") -> None:
        """
        Args:
            dim: D.
            latent_dim: L.
            similarity: e_ij is the "dot" product (paper; favours regions of large norm) or the
                "cosine", times a learned factor.
        """
        super().__init__()
        self.similarity = similarity
        self.fc1 = WeightNormLinear(dim, latent_dim)
        self.fc2 = WeightNormLinear(latent_dim, latent_dim)
        if similarity == "cosine":
            self.scale = nn.Parameter(torch.tensor(COSINE_SCALE))

    def forward(self, features: Tensor) -> Tensor:
        """z: (N, D) to (N, L)."""
        z = F.relu(self.fc2(F.relu(self.fc1(features))))
        if self.similarity == "cosine":
            return F.normalize(z, dim=1) * self.scale.abs().sqrt()
        return z


def graph_dims_problem(graph_dims: Sequence[int], num_kernels: int) -> Wrong | None:
    """What is wrong with the widths of the layers of `SGRN`."""
    wrong = [multiple_of("graph_dims", width, num_kernels) for width in graph_dims]
    if len(graph_dims) and not any(wrong):
        return None
    return Wrong("graph_dims", f"one or more multiples of num_kernels {num_kernels}", graph_dims)


class SGRN(nn.Module):
    """Relation learner, sparse graph and spatial graph convolutions.

    985,152 parameters at D = 1024, P = 1025, L = 256, E = 512, 256 and K = 8, of which 512 in the
    LayerNorm of h that the released code has not.
    """

    def __init__(
        self,
        dim: int,
        node_dim: int,
        *,
        latent_dim: int = 256,
        graph_dims: Sequence[int] = (512, 256),
        num_kernels: int = 8,
        num_neighbors: int = 32,
        similarity: Similarity = "dot",
        edge_norm: EdgeNorm = "softmax",
        edge_layers: EdgeLayers = "first",
        kernel_norm: KernelNorm = "kernels",
        covariance: Covariance = "diag",
        angle: Angle = "atan2",
        dropout: float = 0.5,
        out_norm: OutNorm = "LN",
    ) -> None:
        """
        Args:
            dim: D of the features.
            node_dim: P of the nodes.
            latent_dim: L of the relation learner.
            graph_dims: E of each layer; the last is the size of the result.
            num_kernels: K, divides every E.
            num_neighbors: T; images with fewer regions use them all.
            similarity: see `RelationLearner`.
            edge_norm, kernel_norm: see `edge_weights`.
            edge_layers: e is in the "first" layer only (released code) or in "all".
            covariance, angle: see `GaussianKernels`.
            dropout: probability, between the layers.
            out_norm: "LN", a LayerNorm of h. The paper has none (""); but classifier rows are
                small, so that h starts some 1e-3 times as large as f.

        Raises:
            ArgumentError: an argument outside these.
        """
        super().__init__()
        require(
            at_least("dim", dim, 1),
            at_least("node_dim", node_dim, 1),
            at_least("latent_dim", latent_dim, 1),
            at_least("num_kernels", num_kernels, 1),
            graph_dims_problem(graph_dims, num_kernels),
            at_least("num_neighbors", num_neighbors, 1),
            one_of("similarity", similarity, CHOICES["similarity"]),
            one_of("edge_norm", edge_norm, EDGE_NORMS),
            one_of("edge_layers", edge_layers, CHOICES["edge_layers"]),
            one_of("kernel_norm", kernel_norm, KERNEL_NORMS),
            one_of("covariance", covariance, COVARIANCES),
            one_of("angle", angle, ANGLES),
            within("dropout", dropout, "[0, 1)"),
            one_of("out_norm", out_norm, CHOICES["out_norm"]),
        )
        self.dim, self.node_dim, self.out_dim = dim, node_dim, graph_dims[-1]
        self.num_neighbors = num_neighbors
        self.angle = angle
        self.learner = RelationLearner(dim, latent_dim, similarity)
        widths = [node_dim, *graph_dims]
        self.convs = nn.ModuleList(
            SpatialGraphConv(
                widths[k],
                widths[k + 1],
                num_kernels=num_kernels,
                edge_norm=edge_norm if k == 0 or edge_layers == "all" else None,
                kernel_norm=kernel_norm,
                covariance=covariance,
                angle=angle,
            )
            for k in range(len(graph_dims))
        )
        self.dropout = nn.Dropout(dropout)
        self.norm = out_norm_layer(out_norm, self.out_dim)

    def graph(
        self, features: Tensor, regions: Regions, key_bias: Tensor | None = None
    ) -> SparseGraph:
        """The learned neighbours of every region; arguments as in `forward`."""
        return top_neighbors(self.learner(features), regions, self.num_neighbors, key_bias)

    def forward(
        self, features: Tensor, nodes: Tensor, regions: Regions, key_bias: Tensor | None = None
    ) -> Tensor:
        """
        Args:
            features: (N, D) f, from which edges are learned. The released code detaches them here.
            nodes: (N, P) x, see `semantic_nodes`.
            regions: of the same N rows.
            key_bias: (N,) added to the score of every edge that comes from a region, for example
                its log-probability to be an object.

        Returns:
            (N, E) h, float32 or wider. A region of an image without keys gets h of no message.
        """
        self._check_rows("features", features, self.dim, regions)
        return self.convolve(nodes, regions, self.graph(features, regions, key_bias))

    def convolve(self, nodes: Tensor, regions: Regions, graph: SparseGraph) -> Tensor:
        """The second half of `forward`, for a caller who wants to see the graph.

        Args:
            nodes: (N, P) x, see `semantic_nodes`.
            regions: of the same N rows.
            graph: of `graph`.

        Returns:
            (N, E) h, as `forward`.
        """
        self._check_rows("nodes", nodes, self.node_dim, regions)
        coordinates = polar_coordinates(regions, graph.neighbors, self.angle)  # (N, T, 2)
        h = nodes
        for k, conv in enumerate(self.convs):
            h = F.relu(conv(self.dropout(h) if k else h, graph, coordinates))
        return self.norm(h)

    @staticmethod
    def _check_rows(name: str, rows: Tensor, width: int, regions: Regions) -> None:
        if not torch.jit.is_tracing() and rows.shape != (regions.boxes.shape[0], width):
            raise ValueError(
                f"{name} must be ({len(regions)}, {width}) for these regions, "
                f"got {tuple(rows.shape)}."
            )

    def extra_repr(self) -> str:
        return f"{self.dim}, {self.node_dim}, num_neighbors={self.num_neighbors}"
