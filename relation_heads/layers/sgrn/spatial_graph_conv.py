"""Graph convolution with Gaussian kernels over polar coordinates, on a sparse graph.

Source: MoNet (Monti et al., arXiv 1611.08402) as SGRN uses it (Xu et al., CVPR 2019; see
`sgrn`):

    w_k(u) = exp(-1/2 (u - mu_k)^T Sigma_k^-1 (u - mu_k)),  u = (d, theta)
    h_i    = concat_k L_k sum_{j in N(i)} w_k(u_ij) e_ij x_j

MoNet itself sums over k instead, with larger L_k (`sum_over_neighbors` with `sum_kernels`).

Shapes: N regions, T neighbours of each, K kernels, P channels of x, E of h.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..arguments import at_least, multiple_of, one_of, require
from ..geometry import Angle
from ..precision import no_autocast
from .sparse_graph import SparseGraph, sum_over_neighbors

EdgeNorm = Literal["softmax", "none", "joint"]
KernelNorm = Literal["kernels", "neighbors", "none"]
Covariance = Literal["diag", "full"]
EDGE_NORMS: tuple[str, ...] = get_args(EdgeNorm)
KERNEL_NORMS: tuple[str, ...] = get_args(KernelNorm)
COVARIANCES: tuple[str, ...] = get_args(Covariance)
ANGLES: tuple[str, ...] = get_args(Angle)

MIN_WIDTH = 1e-3  # of a kernel, in units of the image size and in radians


class GaussianKernels(nn.Module):
    """K Gaussians over polar coordinates, as the exponents `-1/2 (u - mu)^T Sigma^-1 (u - mu)`.

    Sigma is diagonal, `width`^2, or Sigma^-1 = A^T A with A lower triangular: 1 / `width` on its
    diagonal, `shear` below it.
    """

    def __init__(
        self, num_kernels: int, *, covariance: Covariance = "diag", angle: Angle = "atan2"
    ) -> None:
        super().__init__()
        self.angle = angle
        self.mean = nn.Parameter(torch.empty(num_kernels, 2))  # mu: distance, angle
        self.width = nn.Parameter(torch.empty(num_kernels, 2))
        self.shear = nn.Parameter(torch.empty(num_kernels)) if covariance == "full" else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Released code: means uniform in [0, 1] and [-pi, pi], widths in [0, 1]."""
        nn.init.uniform_(self.mean[:, 0], 0, 1)
        nn.init.uniform_(self.mean[:, 1], -math.pi, math.pi)
        nn.init.uniform_(self.width, 0, 1)
        if self.shear is not None:
            nn.init.zeros_(self.shear)

    def forward(self, coordinates: Tensor) -> Tensor:
        """(..., 2) as (d, theta) to (..., K) exponents <= 0, in the coordinates' precision."""
        difference = coordinates[..., None, :] - self.mean.to(coordinates.dtype)  # (..., K, 2)
        distance, theta = difference.unbind(-1)
        if self.angle == "atan2":  # the shorter way round the circle
            theta = torch.remainder(theta + math.pi, 2 * math.pi) - math.pi
        width = (self.width.to(coordinates.dtype).square() + MIN_WIDTH**2).sqrt()
        distance, theta = distance / width[:, 0], theta / width[:, 1]
        if self.shear is not None:
            theta = theta + self.shear.to(coordinates.dtype) * difference[..., 0]
        return -0.5 * (distance.square() + theta.square())


def edge_weights(
    exponents: Tensor, graph: SparseGraph, *, edge_norm: EdgeNorm | None, kernel_norm: KernelNorm
) -> Tensor:
    """`w_k(u_ij) e_ij`, each normalised as told: (N, T, K), 0 in empty places.

    Args:
        exponents: (N, T, K) of `GaussianKernels`.
        graph: whose scores are e.
        edge_norm: "softmax" of e over the neighbours (released code), "none" (paper: e itself),
            "joint", for each kernel one softmax of e plus exponent (`kernel_norm` is not used), or
            None, without e.
        kernel_norm: w sums to 1 over the "kernels", that is, an edge is shared among them (released
            code), over the "neighbors" of each kernel, or not: "none" (paper).
    """
    valid = graph.valid[:, :, None]  # (N, T, 1)
    scores = graph.scores[:, :, None].to(exponents.dtype)  # (N, T, 1)
    if edge_norm == "joint":
        return _softmax(exponents + scores, valid)
    if kernel_norm == "neighbors":
        weights = _softmax(exponents, valid)
    else:
        weights = exponents.softmax(dim=2) if kernel_norm == "kernels" else exponents.exp()
        weights = weights.masked_fill(~valid, 0)
    if edge_norm == "softmax":
        weights = weights * _softmax(scores, valid)
    elif edge_norm == "none":
        weights = weights * scores.masked_fill(~valid, 0)
    return weights


def _softmax(logits: Tensor, valid: Tensor) -> Tensor:
    """Over the valid neighbours, (N, T, .); 0, and no gradient, at all others."""
    # Over no neighbour at all a softmax is NaN; masked twice, for the value and for the gradient.
    return logits.masked_fill(~valid, -torch.inf).softmax(dim=1).masked_fill(~valid, 0)


class SpatialGraphConv(nn.Module):
    """h_i = concat_k L_k sum_{j in N(i)} w_k(u_ij) e_ij x_j; parameters E P + 4 K, or 5 K (full).

    The K blocks L_k, (E / K, P) each and without bias, are one matrix L (E, P).
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        num_kernels: int = 8,
        edge_norm: EdgeNorm | None = "softmax",
        kernel_norm: KernelNorm = "kernels",
        covariance: Covariance = "diag",
        angle: Angle = "atan2",
    ) -> None:
        """
        Args:
            in_dim: P.
            out_dim: E, a multiple of `num_kernels`.
            num_kernels: K.
            edge_norm, kernel_norm: see `edge_weights`.
            covariance, angle: see `GaussianKernels`.

        Raises:
            ArgumentError: an argument outside these.
        """
        super().__init__()
        require(
            at_least("in_dim", in_dim, 1),
            at_least("num_kernels", num_kernels, 1),
            multiple_of("out_dim", out_dim, num_kernels, "num_kernels"),
            one_of("edge_norm", edge_norm, (*EDGE_NORMS, None)),
            one_of("kernel_norm", kernel_norm, KERNEL_NORMS),
            one_of("covariance", covariance, COVARIANCES),
            one_of("angle", angle, ANGLES),
        )
        self.num_kernels = num_kernels
        self.edge_norm = edge_norm
        self.kernel_norm = kernel_norm
        self.linear = nn.Linear(in_dim, out_dim, bias=False)  # L
        self.kernels = GaussianKernels(num_kernels, covariance=covariance, angle=angle)

    def forward(self, nodes: Tensor, graph: SparseGraph, coordinates: Tensor) -> Tensor:
        """
        Args:
            nodes: (N, P) x.
            graph: T neighbours each.
            coordinates: (N, T, 2) u of these neighbours.

        Returns:
            (N, E) h, float32 or wider.
        """
        nodes = nodes.to(self.linear.weight.dtype)  # they may be wider, of the layer before
        values = self.linear(nodes).unflatten(1, (self.num_kernels, -1))  # (N, K, E / K)
        weights = self.weights(graph, coordinates)
        return sum_over_neighbors(values, graph.neighbors, weights).flatten(1)  # (N, E)

    def weights(self, graph: SparseGraph, coordinates: Tensor) -> Tensor:
        """The weights of all edges, (N, T, K); arguments as in `forward`."""
        with no_autocast(coordinates):
            return edge_weights(
                self.kernels(coordinates),
                graph,
                edge_norm=self.edge_norm,
                kernel_norm=self.kernel_norm,
            )
