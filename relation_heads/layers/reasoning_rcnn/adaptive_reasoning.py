"""Reasoning-RCNN: classes tell one another what their classifiers know, as far as an image asks.

Source: Xu, Jiang, Liang, Lin, Li, "Reasoning-RCNN: Unifying Adaptive Global Reasoning into
Large-scale Object Detection", CVPR 2019, section 3; where the paper leaves something open, the
authors' released code (chanyn/Reasoning-RCNN, `reasoning_rcnn.py`, Apache-2.0).

    M  = [W_cls, b_cls]                     rows of the previous classifier, without gradient
    z  = what the image asks                see `image_query`
    a  = softmax over the classes (z M^T)   attention of an image to each class
    E  = relu(a_c W_g (A M)_c + b_g)        A: fixed edges between classes, and each class itself
    h_i = sum_c softmax(s_i)_c E_c          s_i: scores of region i by the previous classifier

[f, h] goes to a new classifier and box regressor. The release computes W_g (a_c (A M)_c) for every
image with a dense A. a_c is a number, so this equals a_c (A (M W_g^T))_c: one product and one
sparse sum for all images of a step, in E channels instead of P, and only then images and regions.

Where this differs from the release:

- h_i is of the scores of region i itself. The release in training takes the scores of the regions
  that the first stage sampled, and puts them beside the features of those that the second stage
  sampled anew, which are others or in another order (at test time they are the same regions).
- b_g starts at 0, not at random: a is about 1 / C, so that E would start as that bias alone.
- "LN", a LayerNorm of K h, as a is about 1 / K. The release has none (""), and there h starts about
  1e-5 times as large as f with 80 classes.
- The mean behind z leaves out the padding of a batch.

Shapes: N regions of B images, C classes, K = C + 1 scores with the background last, D channels of
f, P = D + 1 of M, E of h. The background has no edges and hears nothing, not even itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import at_least, one_of, require
from ..out_norm import OUT_NORMS, OutNorm, out_norm_layer
from ..precision import no_autocast, widen
from ..reasoning.class_edges import ClassEdges
from ..regions import Regions
from .image_query import ImageQuery


def semantic_pool(weight: Tensor, bias: Tensor) -> Tensor:
    """M: weights (K, D) and biases (K,) of a classifier, without gradient, (K, D + 1)."""
    return torch.cat([weight, bias[:, None]], dim=1).detach()


class AdaptiveReasoning(nn.Module):
    """Attention over classes, class graph and soft mapping.

    919,681 parameters at D = 1024, four maps of 256 channels, 64 squeezed channels and E = 256, of
    which 512 in the LayerNorm that the released code has not.
    """

    def __init__(
        self,
        dim: int,
        map_channels: int,
        *,
        channels: int = 256,
        squeeze_channels: int = 64,
        edges: Tensor | None = None,
        out_norm: OutNorm = "LN",
    ) -> None:
        """
        Args:
            dim: D of the features that the previous classifier reads.
            map_channels: of all maps that z is made from.
            channels: E.
            squeeze_channels: see `ImageQuery`.
            edges: (C, C) of A, sparse or dense, without its diagonal, rows hear. None: every class
                hears itself alone.
            out_norm: "LN" or "", see the module.

        Raises:
            ArgumentError: an argument outside these.
        """
        super().__init__()
        require(
            at_least("dim", dim, 1),
            at_least("map_channels", map_channels, 1),
            at_least("channels", channels, 1),
            at_least("squeeze_channels", squeeze_channels, 1),
            one_of("out_norm", out_norm, OUT_NORMS),
        )
        self.dim, self.out_dim, self.out_norm = dim, channels, out_norm
        self.query = ImageQuery(map_channels, dim + 1, squeeze_channels=squeeze_channels)
        self.edges = ClassEdges(edges) if edges is not None else None
        self.transform = nn.Linear(dim + 1, channels)  # W_g, b_g
        nn.init.zeros_(self.transform.bias)
        self.norm = out_norm_layer(out_norm, channels)

    def attention(
        self,
        pool: Tensor,
        maps: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        stride: int,
        resized_to: int = 0,
    ) -> Tensor:
        """
        Args:
            pool: (K, P) M, see `semantic_pool`.
            maps, image_sizes, stride, resized_to: see `ImageQuery.forward`.

        Returns:
            (B, K) a; the rows sum to 1. Float32 or wider.
        """
        z = self.query(maps, image_sizes, stride, resized_to)  # (B, P)
        with no_autocast(z):
            return (widen(z) @ widen(pool).T).softmax(dim=1)

    def forward(self, logits: Tensor, pool: Tensor, attention: Tensor, regions: Regions) -> Tensor:
        """
        Args:
            logits: (N, K) s, the previous classifier's scores of the same regions.
            pool: (K, P) M.
            attention: (B, K) a, of `attention`.
            regions: N.

        Returns:
            (N, E) h, float32 or wider.
        """
        with no_autocast(logits):  # h is too small for float16
            bias, classes = widen(self.transform.bias), self.classes(pool)  # (E,), (K, E)
            p = widen(logits).softmax(dim=1)
            h = [
                q @ F.relu(a[:, None] * classes + bias)  # (R, K) (K, E)
                for q, a in zip(regions.split(p), attention.unbind(), strict=True)
            ]
            rows = torch.cat(h)  # (N, E)
            return self.norm(rows * logits.shape[1]) if self.out_norm else rows

    def classes(self, pool: Tensor) -> Tensor:
        """A M W_g^T: (K, P) to (K, E), of which nothing depends on an image."""
        own = F.linear(widen(pool), widen(self.transform.weight))[:-1]  # (C, E)
        heard = own if self.edges is None else own + self.edges(own)
        return F.pad(heard, (0, 0, 0, 1))  # (K, E)

    def extra_repr(self) -> str:
        return f"{self.dim}, {self.out_dim}"
