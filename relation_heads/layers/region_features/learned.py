"""Learned region features (Gu et al., "Learning Region Features for Object Detection", ECCV 2018).

Bins of a region that are weighted sums over the map, in place of RoIAlign's:

    y_k(b)   = sum_p w_k(b, p, x) x(p)                            k = 1 .. K bins, p in Omega_b
    w_k      = softmax_p( G_k(b, p) + A_k(x, p) )                 eq. 7
    G_k      = < W_k^box E^box(b), W^im E^im(p) >                 eq. 8;  W_k^box = Ŵ_k V
    A_k      = W_k^app x(p)                                       eq. 9
    E(z)     = (sin, cos)(z / 1000^(2i / C_E))

x is summed as it is, there is no value transform. E^box has the four coordinates of the box, E^im
the two of the place. So W^im E^im(p) is one part of the column and one of the row, and G is the sum
of a table over columns and one over rows: exact, and N K (H + W) C_g products in place of the
paper's N K |Omega| C_g. The sum over p goes over blocks of regions, and is made anew for the
gradient, so that memory does not hold a copy of x for every region.

Open in the paper, and our choice: z is in cells of the map, of the centre of a place; Omega_b, see
`samples`; at the start G is of order 1, and A is nearly 0.

Shapes: B images, N regions of all images, C channels, K = bins^2, C_E and C_g as in the paper.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..arguments import at_least, multiple_of, one_of, require
from ..geometry import sinusoidal_embedding
from ..precision import no_autocast, widen
from ..recomputed import recomputed
from ..regions import row_counts
from .samples import Grid, grid_around, grid_in

Support = Literal["box", "double", "image"]
FACTORS: dict[str, float] = {"box": 1.0, "double": 2.0, "image": math.inf}
SCRATCH_BYTES = 32 * 2**20  # of the copies of x that a block makes


class LearnedRegionFeatures(nn.Module):
    """Boxes and maps to features of regions, (N, C, bins, bins)."""

    def __init__(
        self,
        channels: int,
        *,
        bins: int = 7,
        embed_dim: int = 512,
        dim: int = 256,
        support: Support = "image",
        inside: int = 14,
        around: int = 10,
    ) -> None:
        """
        Args:
            channels: C of the maps.
            bins: on each side.
            embed_dim: C_E, even.
            dim: C_g.
            support: where a region looks: in its box, in twice the box, or in the whole image.
            inside: points on each axis of the grid in the box.
            around: points on each axis of the grid around it.

        Raises:
            ArgumentError: an argument outside these.
        """
        super().__init__()
        require(
            at_least("channels", channels, 1),
            at_least("bins", bins, 1),
            at_least("embed_dim", embed_dim, 2) or multiple_of("embed_dim", embed_dim, 2),
            at_least("dim", dim, 1),
            one_of("support", support, get_args(Support)),
            at_least("inside", inside, 1),
            at_least("around", around, 1),
        )
        self.bins, self.embed_dim, self.dim = bins, embed_dim, dim
        self.factor, self.inside, self.around = FACTORS[support], inside, around
        self.image = nn.Linear(2 * self.embed_dim, dim, bias=False)  # W^im
        self.box = nn.Linear(4 * self.embed_dim, self.embed_dim, bias=False)  # V
        self.bin = nn.Linear(self.embed_dim, bins**2 * dim, bias=False)  # Ŵ, all k
        self.appearance = nn.Conv2d(channels, bins**2, 1, bias=False)  # W^app
        nn.init.normal_(self.bin.weight, std=(self.embed_dim * dim) ** -0.5)
        nn.init.normal_(self.appearance.weight, std=0.01)

    def forward(
        self, maps: Tensor, boxes: Tensor, images: Tensor, sizes: Tensor | None = None
    ) -> Tensor:
        """
        Args:
            maps: (B, C, H, W).
            boxes: (N, 4) x1, y1, x2, y2 in cells of the map.
            images: (N,) int64, the image of each box.
            sizes: (B, 2) int64, height and width of each image in cells, where maps are padded
                below and on the right.

        Returns:
            (N, C, bins, bins).
        """
        if sizes is None:
            sizes = row_counts(maps.shape[2:], maps.device).expand(maps.shape[0], 2)
        appearance = self.appearance(maps)  # (B, K, H, W)
        places = self.inside**2 + (self.around**2 if self.factor > 1 else 0)
        number_bytes = maps.shape[1] * maps.element_size()
        block = max(1, SCRATCH_BYTES // (places * number_bytes))
        if torch.jit.is_tracing():
            found = [self._block(maps, appearance, boxes, images, sizes)]
        else:
            found = [
                recomputed(self._block, maps, appearance, b, i, sizes)
                for b, i in zip(boxes.split(block), images.split(block), strict=True)
            ]
        return torch.cat(found).unflatten(2, (self.bins, self.bins))

    def weights(
        self, appearance: Tensor, boxes: Tensor, images: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """w and the places p of regions.

        Args:
            appearance: A (B, K, H, W).
            boxes, images, sizes: as of `forward`.

        Returns:
            (N, K, P) weights, 0 where a place does not count, and (N, P) places, (b H + y) W + x.
        """
        boxes, sizes = widen(boxes), sizes[images]
        with no_autocast(boxes):
            by_row, by_column = self._geometry(boxes, appearance.shape[2], appearance.shape[3])
            grids = [grid_in(boxes, sizes, self.inside)]
            if self.factor > 1:
                grids.append(grid_around(boxes, sizes, self.around, self.factor))
            logits, places = [], []
            for grid in grids:
                place, seen = _seen(grid, images, widen(appearance))
                logits.append((_on_grid(grid, by_row, by_column) + seen).flatten(2))
                places.append(place)
            return torch.cat(logits, dim=2).softmax(dim=2), torch.cat(places, dim=1)

    def _geometry(self, boxes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """The two parts of G: (N, K, H) of rows and (N, K, W) of columns."""
        half, dtype = self.embed_dim // 2, torch.promote_types(self.box.weight.dtype, boxes.dtype)
        embedded = sinusoidal_embedding(boxes.to(dtype), half, scale=1.0)  # (N, 4 C_E)
        shared = embedded @ self.box.weight.to(dtype).T  # (N, C_E)
        asks = (shared @ self.bin.weight.to(dtype).T).unflatten(1, (-1, self.dim))  # (N, K, C_g)
        parts = []
        of_x, of_y = self.image.weight.to(dtype).unflatten(1, (2, -1)).unbind(1)  # (C_g, C_E) each
        for cells, weight in ((height, of_y), (width, of_x)):
            at = torch.arange(cells, device=boxes.device, dtype=dtype)[:, None] + 0.5
            table = sinusoidal_embedding(at, half, scale=1.0) @ weight.T  # (cells, C_g)
            parts.append(asks @ table.T)
        return parts[0], parts[1]

    def _block(
        self, maps: Tensor, appearance: Tensor, boxes: Tensor, images: Tensor, sizes: Tensor
    ) -> Tensor:
        """(N, C, K) of a few regions."""
        weights, places = self.weights(appearance, boxes, images, sizes)
        values = maps.transpose(0, 1).flatten(1)[:, places]  # (C, N, P)
        return values.transpose(0, 1) @ weights.to(maps.dtype).transpose(1, 2)


def _on_grid(grid: Grid, by_row: Tensor, by_column: Tensor) -> Tensor:
    """G (N, K, r, c) on a grid from its parts (N, K, H) and (N, K, W); -inf where none counts."""
    bins = by_row.shape[1]
    at_rows = by_row.gather(2, grid.rows[:, None].expand(-1, bins, -1))  # (N, K, r)
    at_columns = by_column.gather(2, grid.columns[:, None].expand(-1, bins, -1))  # (N, K, c)
    both = at_rows[..., None] + at_columns[:, :, None]
    return both.masked_fill(~grid.counts[:, None], -torch.inf)


def _seen(grid: Grid, images: Tensor, appearance: Tensor) -> tuple[Tensor, Tensor]:
    """Places (N, r c) of a grid, and A (B, K, H, W) there, (N, K, r, c)."""
    height, width = appearance.shape[2:]
    rows = images[:, None, None] * height + grid.rows[:, :, None]
    places = rows * width + grid.columns[:, None]  # (N, r, c)
    seen = appearance.transpose(0, 1).flatten(1)[:, places]  # (K, N, r, c)
    return places.flatten(1), seen.transpose(0, 1)
