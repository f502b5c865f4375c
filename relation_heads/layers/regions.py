"""`Regions`: the one value that every relational layer sees beside the features.

A batch of B images has a ragged number of regions, N = sum of N_b. Features are `(N, D)`, all
images concatenated; `Regions` carries the boxes of the same N rows and says where one image ends
and the next begins. Projections run once on the concatenation, only the N_b x N_b part of a layer
is computed per image, so nothing is padded and no image can see another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def row_counts(splits: Sequence[int], device: torch.device | None = None) -> Tensor:
    """(B,) int64 from the numbers of rows of each image, which are 0-dimensional tensors where
    `torch.jit.trace` must not take them for constants."""
    if torch.jit.is_tracing():
        return torch.stack([torch.full((), n, dtype=torch.long, device=device) for n in splits])
    return torch.tensor(splits, dtype=torch.long, device=device)


MIN_FOREGROUND = 1e-6
# Pixels. No image is so large, and squares of it and sums of them are far from the end of float32.
FARTHEST = 2.0**24


@dataclass(frozen=True, eq=False)
class Regions:
    """The regions of a batch of images; row n of every field belongs to row n of the features.

    Attributes:
        boxes: (N, 4) x1, y1, x2, y2 in input-image pixels, floating point, without gradient.
        splits: N_b for each of the B images, in order. In a trace these and the sizes are
            0-dimensional tensors, as `Tensor.shape` gives them there; B is a constant.
        image_sizes: (height, width) in pixels of each image.
        is_key: (N,) bool, False for regions that may ask but may not answer: ground-truth boxes
            appended during training exist only then, and keys should be distributed as they are at
            test time. None: all are keys.
        earlier: (N, 4) the same regions before they were refined. A layer that relates boxes takes
            these for the region that asks, and `boxes` for the one that answers. None: `boxes`.
    """

    boxes: Tensor
    splits: tuple[int, ...]
    image_sizes: tuple[tuple[int, int], ...]
    is_key: Tensor | None = None
    earlier: Tensor | None = None

    def __post_init__(self) -> None:
        if torch.jit.is_tracing():  # sizes are tensors there; comparing them would bake them in
            return
        if self.boxes.dim() != 2 or self.boxes.shape[1] != 4 or not self.boxes.is_floating_point():
            raise ValueError(
                f"Regions.boxes must be floating point of shape (N, 4), got {self.boxes.dtype} "
                f"of shape {tuple(self.boxes.shape)}."
            )
        if len(self.splits) != len(self.image_sizes):
            raise ValueError(
                f"Regions.splits names {len(self.splits)} images, "
                f"image_sizes {len(self.image_sizes)}."
            )
        # Not len(), which would make a constant of the number of regions in `torch.export`.
        if sum(self.splits) != self.boxes.shape[0]:
            raise ValueError(
                f"Regions.splits {self.splits} sums to {sum(self.splits)}, "
                f"but there are {self.boxes.shape[0]} boxes."
            )
        if self.is_key is not None and (
            self.is_key.dtype != torch.bool or self.is_key.shape != self.boxes.shape[:1]
        ):
            raise ValueError(
                f"Regions.is_key must be bool of shape ({len(self)},), got {self.is_key.dtype} "
                f"of shape {tuple(self.is_key.shape)}."
            )
        if self.earlier is not None and self.earlier.shape != self.boxes.shape:
            raise ValueError(
                f"Regions.earlier must be ({len(self)}, 4) as the boxes, got "
                f"{tuple(self.earlier.shape)}."
            )

    @classmethod
    def from_boxes(
        cls,
        boxes: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        is_key: Sequence[Tensor] | None = None,
        earlier: Sequence[Tensor] | None = None,
    ) -> Regions:
        """Concatenates per-image boxes.

        Args:
            boxes: B tensors (N_b, 4); N_b may be 0. What is farther away than `FARTHEST`, as boxes
                are before a training diverges, is taken to be there.
            image_sizes: B pairs (height, width).
            is_key: B bool tensors (N_b,), or None when every region is a key.
            earlier: B tensors (N_b, 4), or None when regions ask from their boxes.
        """
        if len(boxes) == 0:
            raise ValueError("Regions.from_boxes needs the boxes of at least one image, got none.")
        return cls(
            boxes=_together(boxes),
            splits=tuple(b.shape[0] for b in boxes),
            image_sizes=tuple(image_sizes),
            is_key=None if is_key is None else torch.cat(list(is_key)),
            earlier=None if earlier is None else _together(earlier),
        )

    def __len__(self) -> int:
        return self.boxes.shape[0]

    def split(self, rows: Tensor) -> Sequence[Tensor]:
        """Cuts (N, ...) into B tensors (N_b, ...)."""
        # One image needs no sizes, which keeps traced models free of a fixed number of regions.
        return (rows,) if len(self.splits) == 1 else rows.split(list(self.splits))

    @property
    def asking(self) -> Tensor:
        """(N, 4) the boxes from which regions see others."""
        return self.boxes if self.earlier is None else self.earlier

    def split_keys(self, rows: Tensor) -> Sequence[Tensor]:
        """Cuts (N, ...) into B tensors (K_b, ...) that hold the keys only, in their order."""
        return self.split_where(self.is_key, rows)

    def split_where(self, mask: Tensor | None, rows: Tensor) -> Sequence[Tensor]:
        """Cuts (N, ...) into B tensors that hold the rows of a mask (N,) only; None: all rows."""
        if mask is None:
            return self.split(rows)
        return [r[m] for r, m in zip(self.split(rows), self.split(mask), strict=True)]


def _together(boxes: Sequence[Tensor]) -> Tensor:
    """Of all images, without gradient, none farther away than `FARTHEST`."""
    together = torch.cat(list(boxes)).detach()
    farthest = min(FARTHEST, torch.finfo(together.dtype).max)
    return together.clamp(-farthest, farthest)


def foreground_probability(probabilities: Tensor) -> Tensor:
    """1 - p(background), (N,), with a floor so that it has a logarithm.

    Args:
        probabilities: (N, C + 1), background last.
    """
    return (1 - probabilities[:, -1]).clamp(min=MIN_FOREGROUND)
