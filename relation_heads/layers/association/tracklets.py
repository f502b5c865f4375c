"""`Tracklets`: what an association remembers of the objects that it follows.

    tracklets = Tracklets.empty(dim=1024, length=10)
    tracklets = tracklets.born(features, boxes, frame=1)            # a row for each detection
    tracklets = tracklets.extended(rows, features, boxes, frame=2)  # these were seen again
    tracklets = tracklets.keep(rows)                                # the others have ended

Which detection belongs to which tracklet, when a tracklet is born and when it ends is decided
elsewhere. A tracklet keeps the last L frames in which it was seen, however long it was hidden
between them, so that the memory does not grow with the length of a video. Whether the paper counts
hidden frames among its last 10 is not known to us.

Shapes: T tracklets, L frames, the latest one first; D channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Tracklets:
    """T tracklets, each seen in at least one and at most L frames.

    Attributes:
        features: (T, L, D) of the object in each frame. What is in columns without a frame does not
            matter.
        boxes: (T, L, 4) x1, y1, x2, y2 in pixels, the same.
        frames: (T, L) int64 number of each frame, falling along a row; -1 in columns without a
            frame, which come last.
    """

    features: Tensor
    boxes: Tensor
    frames: Tensor

    def __post_init__(self) -> None:
        shape, dtype = tuple(self.frames.shape), self.frames.dtype
        if len(shape) != 2 or shape[1] < 1 or dtype != torch.int64:
            raise ValueError(
                f"Tracklets.frames must be int64 of shape (T, L), L >= 1, got {dtype} of {shape}."
            )
        if self.features.dim() != 3 or self.features.shape[:2] != self.frames.shape:
            raise ValueError(
                f"Tracklets.features must be {(*shape, 'D')} as the frames, "
                f"got {tuple(self.features.shape)}."
            )
        if self.boxes.shape != (*shape, 4) or not self.boxes.is_floating_point():
            raise ValueError(
                f"Tracklets.boxes must be floating point of shape {(*shape, 4)}, "
                f"got {self.boxes.dtype} of shape {tuple(self.boxes.shape)}."
            )
        # One look at the values: no row without a frame, frames fall until there are no more.
        later, earlier = self.frames[:, :-1], self.frames[:, 1:]
        falls = (later > earlier) | ((later == -1) & (earlier == -1))
        right = falls.all(dim=1) & (self.frames[:, 0] >= 0) & (self.frames >= -1).all(dim=1)
        if not right.all():
            row = int((~right).nonzero()[0])
            raise ValueError(
                "Tracklets.frames must fall along each row from a number of at least 0, with -1 "
                f"after the last, got {self.frames[row].tolist()} in row {row}."
            )

    @classmethod
    def empty(
        cls,
        dim: int,
        length: int = 10,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> Tracklets:
        """No tracklets, of D = `dim` channels and L = `length` frames; `dtype` of the features."""
        return cls(
            features=torch.zeros(0, length, dim, dtype=dtype, device=device),
            boxes=torch.zeros(0, length, 4, device=device),
            frames=torch.zeros(0, length, dtype=torch.int64, device=device),
        )

    def __len__(self) -> int:
        return self.frames.shape[0]

    @property
    def seen(self) -> Tensor:
        """(T, L) bool: the columns that hold a frame."""
        return self.frames >= 0

    def born(self, features: Tensor, boxes: Tensor, frame: int) -> Tracklets:
        """These tracklets, and after them a new one for each of N detections.

        Args:
            features: (N, D).
            boxes: (N, 4) pixels.
            frame: number of the frame, at least 0.
        """
        f, b, n = (x[:, None] for x in self._entry(features, boxes, frame))
        rest = self.frames.shape[1] - 1
        wide = F.pad(f, (0, 0, 0, rest)), F.pad(b, (0, 0, 0, rest)), F.pad(n, (0, rest), value=-1)
        old = (self.features, self.boxes, self.frames)
        return Tracklets(*(torch.cat(both) for both in zip(old, wide, strict=True)))

    def extended(self, rows: Tensor, features: Tensor, boxes: Tensor, frame: int) -> Tracklets:
        """The same tracklets; those of `rows` were seen in one more frame, and each of them forgets
        its oldest one if it has L.

        Args:
            rows: (M,) int64, each at most once.
            features: (M, D).
            boxes: (M, 4) pixels.
            frame: number of the frame, above those that the rows have.
        """
        if rows.unique().numel() != rows.numel():
            raise ValueError(f"Tracklets.extended takes each row once, got {rows.tolist()}.")
        old = (self.features, self.boxes, self.frames)
        new = [
            x.index_put((rows,), torch.cat([entry[:, None], x[rows, :-1]], dim=1))
            for x, entry in zip(old, self._entry(features, boxes, frame), strict=True)
        ]
        return Tracklets(*new)

    def keep(self, rows: Tensor) -> Tracklets:
        """The tracklets of `rows`, indices (M,) or a mask (T,) bool, in that order."""
        return Tracklets(self.features[rows], self.boxes[rows], self.frames[rows])

    def detach(self) -> Tracklets:
        """The same without gradient: training on clips ends its backward pass here."""
        return Tracklets(self.features.detach(), self.boxes.detach(), self.frames)

    def predicted(self, frame: int) -> Tensor:
        """Where the objects are in a later frame if they go on: (T, 4), without gradient.

        Our choice, the paper has no prediction: the latest box, moved on by the mean velocity of
        its centre over the frames that are kept. A tracklet of one frame stays where it is.
        """
        count = self.seen.sum(dim=1)  # (T,)
        oldest = (count - 1)[:, None]  # (T, 1)
        first = self.boxes.gather(1, oldest[..., None].expand(-1, 1, 4))[:, 0]  # (T, 4)
        latest = self.boxes[:, 0].detach()
        duration = self.frames[:, 0] - self.frames.gather(1, oldest)[:, 0]
        way = (latest[:, :2] + latest[:, 2:] - first[:, :2] - first[:, 2:]).detach() / 2
        velocity = way / duration.clamp(min=1)[:, None].to(way.dtype)  # 0 / 1 for one frame
        ahead = (frame - self.frames[:, 0])[:, None].to(way.dtype)
        return latest + (velocity * ahead).repeat(1, 2)

    def _entry(self, features: Tensor, boxes: Tensor, frame: int) -> tuple[Tensor, Tensor, Tensor]:
        """One column for N rows, as the tracklets hold it: (N, D), (N, 4), (N,)."""
        dim = self.features.shape[2]
        if features.shape != (len(boxes), dim) or boxes.shape != (len(boxes), 4):
            raise ValueError(
                f"Detections of these tracklets must have features (N, {dim}) and boxes (N, 4), "
                f"got {tuple(features.shape)} and {tuple(boxes.shape)}."
            )
        frames = self.frames.new_full((len(boxes),), frame)
        return features.to(self.features.dtype), boxes.to(self.boxes.dtype), frames
