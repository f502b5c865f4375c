"""Spatial-temporal relation networks: a score for every tracklet and detection.

Source: Xu, Cao, Zhang, Hu, "Spatial-Temporal Relation Networks for Multi-Object Tracking", ICCV
2019. We know of no released code, and the numbered equations from a reader's notes. What these
leave open is our choice, and the docstring of the argument says so.

    phi_s  = phi_a + sum_j w_ij W_V phi_a(j)        eq. 2-4   objects of one frame: `ObjectRelation`
    phi_T  = sum_t alpha_t phi_s(x_t)               eq. 5, 6  frames of a tracklet: `temporal`
    Phi_R  = W_R [phi_T ; phi_s]                    eq. 7     relation feature
    Phi_C  = cos(W_C phi_T, W_C phi_s)              eq. 8
    Phi_L  = W_L [E(tracklet) ; E(detection)]                 where in the image both boxes are
    Phi_M  = W_M E_G(tracklet, detection)                     how the box moved; "signed" geometry
    s      = g (Phi_C + IoU - 1) + w_2 relu(W_1 [Phi_R ; Phi_C ; Phi_L ; Phi_M])

s is a logit: sigmoid(s) is the probability that both are one object. The form of s is our choice.
As w_2 starts at 0, the layer starts as s = g (cosine + IoU - 1), what a tracker without training
would take: the cosine is of appearance, as the object relation starts as the identity, phi_T as the
mean and W_C as an isometry, and the IoU is of the detection with the box that the tracklet is
predicted to have (`Tracklets.predicted`). That box is also the tracklet's in Phi_L and Phi_M. Which
boxes the paper takes there, and how it embeds them, is not known to us.

What W_1 reads of Phi_R and Phi_L is a sum of a part of the tracklet and a part of the detection, so
that it is computed once for each of them and not for each pair. Of pairs only s is kept; what is
wider is made in blocks of tracklets, and again for backward.

Shapes: T tracklets of at most L frames, N detections of one frame, D channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import Wrong, at_least, require
from ..boxes import box_iou
from ..geometry import EMBED_DIM, pair_embedding, sinusoidal_embedding
from ..object_relation.module import ObjectRelation
from ..precision import no_autocast, widen
from ..recomputed import recomputed
from ..regions import Regions
from .temporal import TemporalAttention
from .tracklets import Tracklets

BLOCK = 2**20  # numbers of relu(W_1 ...) of a block of tracklets, 4 MiB in float32
START = 4.0  # g at the start, our choice: sigmoid(s) is 0.98 for cosine = IoU = 1, 0.02 for both 0


def place_embedding(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """E: (N, 4) boxes in pixels to (N, 64), without gradient, float32 or wider.

    Values (cx / W, cy / H, w / W, h / H), 8 wavelengths each, scale 100 as E_G has (our choice).

    Args:
        boxes: x1, y1, x2, y2.
        image_size: (H, W) in pixels.
    """
    with torch.no_grad():
        boxes = widen(boxes)
        unit = boxes.new_tensor([image_size[1], image_size[0]])
        center, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        values = torch.cat([center / unit, size / unit], dim=1)
        return sinusoidal_embedding(values, EMBED_DIM // 8, scale=100.0)


class Association(nn.Module):
    """Eq. 2-8 and the score. 899,202 parameters at D = 1024 without the relation module."""

    def __init__(
        self,
        dim: int,
        *,
        spatial: ObjectRelation | None = None,
        relation_channels: int = 256,
        cosine_channels: int = 256,
        place_channels: int = 64,
        hidden: int = 256,
    ) -> None:
        """
        Args:
            dim: D.
            spatial: relation of the objects in a frame, with D channels; the paper's has gates of
                the geometry "relation". None: objects do not see one another, phi_s = phi_a.
            relation_channels: of Phi_R (our choice).
            cosine_channels: rows of W_C (our choice). With fewer of them than D the cosine starts
                as that of a random projection, else as that of the features.
            place_channels: of Phi_L, and of Phi_M (our choice).
            hidden: of W_1 (our choice).

        Raises:
            ArgumentError: an argument outside these.
        """
        super().__init__()
        other = spatial is not None and spatial.dim != dim
        require(
            at_least("dim", dim, 1),
            Wrong("spatial", f"a relation of dim={dim}", spatial) if other else None,
            at_least("relation_channels", relation_channels, 1),
            at_least("cosine_channels", cosine_channels, 1),
            at_least("place_channels", place_channels, 1),
            at_least("hidden", hidden, 1),
        )
        self.dim = dim
        self.spatial = spatial
        self.temporal = TemporalAttention(dim)
        self.relation = nn.Linear(2 * dim, relation_channels)  # W_R
        self.cosine = nn.Linear(dim, cosine_channels, bias=False)  # W_C
        self.place = nn.Linear(2 * EMBED_DIM, place_channels)  # W_L
        self.motion = nn.Linear(EMBED_DIM, place_channels)  # W_M
        self.hidden = nn.Linear(relation_channels + 1 + 2 * place_channels, hidden)  # W_1
        self.score = nn.Linear(hidden, 1)  # w_2
        self.gain = nn.Parameter(torch.tensor(START))  # g
        nn.init.orthogonal_(self.cosine.weight)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def relate(self, features: Tensor, regions: Regions) -> Tensor:
        """phi_s (N, D) of phi_a (N, D): detections of one or more frames, which are the images of
        `regions` and do not see one another. This is what tracklets keep."""
        return features if self.spatial is None else self.spatial(features, regions)

    def forward(
        self,
        tracklets: Tracklets,
        features: Tensor,
        boxes: Tensor,
        *,
        frame: int,
        image_size: tuple[int, int],
    ) -> Tensor:
        """
        Args:
            tracklets: of frames before this one, with phi_s as their features.
            features: (N, D) phi_s of the detections, see `relate`.
            boxes: (N, 4) x1, y1, x2, y2 in pixels; without gradient.
            frame: number of this frame.
            image_size: (height, width) in pixels.

        Returns:
            s (T, N), float32 or wider.

        Raises:
            ValueError: shapes that do not fit, or a tracklet that was seen in this frame or later.
        """
        self._check(tracklets, features, boxes, frame)
        with torch.no_grad():
            there, here = widen(tracklets.predicted(frame)), widen(boxes)
            there = there.to(here.dtype)
        phi_t = self.temporal(tracklets)  # (T, D)
        tracklet, detection = self._parts(phi_t, features, there, here, image_size)
        looks = self._looks(phi_t), self._looks(features)
        step = max(1, BLOCK // max(1, len(boxes) * self.hidden.out_features))
        blocks = zip(*(x.split(step) for x in (looks[0], tracklet, there)), strict=True)
        return torch.cat([recomputed(self._block, *b, looks[1], detection, here) for b in blocks])

    def _check(self, tracklets: Tracklets, features: Tensor, boxes: Tensor, frame: int) -> None:
        n = len(boxes)
        if features.shape != (n, self.dim) or boxes.shape != (n, 4):
            raise ValueError(
                f"Detections must have features (N, {self.dim}) and boxes (N, 4), "
                f"got {tuple(features.shape)} and {tuple(boxes.shape)}."
            )
        if tracklets.features.shape[2] != self.dim:
            raise ValueError(
                f"Tracklets must have {self.dim} channels, got {tracklets.features.shape[2]}."
            )
        if (tracklets.frames >= frame).any():
            raise ValueError(
                f"Tracklets must end before frame {frame}, got {int(tracklets.frames.max())}."
            )

    def _looks(self, features: Tensor) -> Tensor:
        """W_C phi of length 1, (., C), float32 or wider; phi = 0 stays 0."""
        return F.normalize(widen(self.cosine(features)), dim=1)

    def _parts(
        self,
        phi_t: Tensor,
        phi_s: Tensor,
        there: Tensor,
        here: Tensor,
        image_size: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        """The parts of W_1 [Phi_R ; . ; Phi_L ; .] that one tracklet and one detection have: (T, H)
        and (N, H). Biases are with the detection."""
        of_relation, _, of_place, of_motion = self._columns()
        relation, place = self.relation.weight.chunk(2, dim=1), self.place.weight.chunk(2, dim=1)
        where = [place_embedding(x, image_size).to(phi_s.dtype) for x in (there, here)]
        tracklet, detection = (
            F.linear(F.linear(phi, w_r), of_relation) + F.linear(F.linear(e, w_l), of_place)
            for phi, w_r, e, w_l in zip((phi_t, phi_s), relation, where, place, strict=True)
        )
        biases: list[Tensor] = [self.relation.bias, self.place.bias, self.motion.bias]
        columns = torch.cat([of_relation, of_place, of_motion], dim=1)
        return tracklet, detection + F.linear(torch.cat(biases), columns, self.hidden.bias)

    def _columns(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """W_1 by what it reads: Phi_R, Phi_C, Phi_L, Phi_M."""
        widths = self.relation.out_features, 1, self.place.out_features, self.motion.out_features
        of_relation, of_cosine, of_place, of_motion = self.hidden.weight.split(widths, dim=1)
        return of_relation, of_cosine, of_place, of_motion

    def _block(
        self,
        look: Tensor,
        tracklet: Tensor,
        there: Tensor,
        looks: Tensor,
        detection: Tensor,
        here: Tensor,
    ) -> Tensor:
        """s of a block of T' tracklets, (T', N)."""
        _, of_cosine, _, of_motion = self._columns()
        with no_autocast(look):
            cosine = look @ looks.T  # (T', N)
        moved = pair_embedding(there, here, geometry="signed")  # (T', N, 64)
        pairs = torch.cat([cosine[..., None], moved], dim=-1).to(tracklet.dtype)
        hidden = F.linear(pairs, torch.cat([of_cosine, of_motion @ self.motion.weight], dim=1))
        hidden = hidden + tracklet[:, None] + detection  # (T', N, H)
        learned = widen(self.score(hidden.relu()))[..., 0]
        return widen(self.gain) * (cosine + box_iou(there[:, None], here) - 1) + learned

    def extra_repr(self) -> str:
        return f"{self.dim}"
