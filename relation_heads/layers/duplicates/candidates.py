"""Which boxes of which classes learned duplicate removal looks at: its candidates.

Source: Hu et al., "Relation Networks for Object Detection", CVPR 2018, section 4.3. The released
code takes the first_n boxes of each class, whatever they score, N C log N work and C first_n^2
pairs. Here a box takes part in a class in which it scores above a threshold: M triples (image,
class, region), grouped by image and class, so that memory follows what could be detected and not
the vocabulary.

Shapes: N regions of B images concatenated, C classes without background, M candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..arguments import at_least, require, within
from ..precision import widen
from ..regions import row_counts


@dataclass(frozen=True, eq=False)
class Candidates:
    """M triples (image, class, region), sorted by image, then class, then rank.

    Attributes:
        region: (M,) row of the features.
        label: (M,) class in [0, C).
        rank: (M,) place among the scores of its image and class, 0 is the highest.
        log_scores: (M,) log s0, with gradient.
        sizes: candidates of each group (one image and class), none is empty. In a trace, which must
            not keep the number of groups, one tensor.
        splits: M_b, candidates of each of the B images.
        region_splits: N_b, regions of each of the B images.
        first_n: how many a group may have.
    """

    region: Tensor
    label: Tensor
    rank: Tensor
    log_scores: Tensor
    sizes: tuple[int, ...] | Tensor
    splits: tuple[int, ...]
    region_splits: tuple[int, ...]
    first_n: int

    def __len__(self) -> int:
        return self.region.shape[0]

    def split(self, rows: Tensor) -> Sequence[Tensor]:
        """Cuts (M, ...) into B tensors (M_b, ...)."""
        return rows.split(list(self.splits))

    def boxes(self, boxes: Tensor) -> Tensor:
        """The boxes of the candidates, (M, 4) without gradient, from (N, 4) or (N, C, 4)."""
        return boxes.detach()[self.region if boxes.dim() == 2 else (self.region, self.label)]


def _places(groups: Tensor) -> Tensor:
    """0, 1, 2, ... within every run of equal numbers: (M,) to (M,)."""
    counts = groups.unique_consecutive(return_counts=True)[1]
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    return torch.arange(groups.shape[0], device=groups.device) - starts


def _in_best_classes(
    groups: Tensor, scores: Tensor, image: Tensor, favoured: Tensor, max_classes: int
) -> Tensor:
    """(M,) bool: rows of the `max_classes` groups of each image with the best first score."""
    first = _places(groups) == 0  # the row of the best score of each group
    heads, images = groups[first], image[first]
    best = scores[first].masked_fill(torch.isin(heads, favoured), math.inf)
    order = best.argsort(descending=True, stable=True)
    order = order[images[order].argsort(stable=True)]
    chosen = heads[order[_places(images[order]) < max_classes]]
    return torch.isin(groups, chosen)


def _likely_classes(scores: Sequence[Tensor], threshold: float) -> Tensor:
    """(B, C) bool: classes whose best score in an image reaches the threshold or the best of all.

    Args:
        scores: B tensors (N_b, C) of logarithms.
    """
    worst = scores[0].new_full((1, scores[0].shape[1]), -math.inf)  # of an image without regions
    best = torch.stack(
        [torch.cat([s.nan_to_num(nan=-math.inf), worst]).amax(dim=0) for s in scores]
    )
    return best >= best.amax(dim=1, keepdim=True).clamp(max=math.log(threshold))


def select_candidates(
    log_scores: Tensor,
    splits: Sequence[int],
    *,
    first_n: int = 100,
    score_threshold: float = 1e-3,
    max_classes: int | None = None,
    keep_classes: Sequence[Tensor] | None = None,
    class_threshold: float = 0.0,
) -> Candidates:
    """The first_n regions of highest score, above the threshold, of every image and class.

    Regions of equal score keep their order.

    Args:
        log_scores: (N, C) log s0 of the C classes, background left out: `log_softmax` or
            `logsigmoid` of the logits (a logarithm of rounded probabilities loses the gradient of
            certain boxes).
        splits: N_b of each of the B images.
        first_n: most regions of one class.
        score_threshold: lowest s0, exclusive, at least 0; 0 is the released training.
        max_classes: most classes of one image, those with the highest scores first; bounds memory
            by B max_classes first_n^2, whatever the scores are. None: all.
        keep_classes: B tensors of classes that come first there: in training those of the objects.
        class_threshold: a class takes part in an image if its highest s0 there is at least this, or
            at least as high as that of any other class. The released code has 0.01 (FPN: 0.05) at
            test time and 0, no limit, in training.

    Raises:
        ArgumentError: a number outside these.
        ValueError: a shape that does not fit, scores that are no logarithms. (NaN is no candidate.)
    """
    require(
        at_least("first_n", first_n, 1),
        within("score_threshold", score_threshold, "[0, 1)"),
        within("class_threshold", class_threshold, "[0, 1)"),
        None if max_classes is None else at_least("max_classes", max_classes, 1),
    )
    splits = tuple(splits)
    scores = widen(log_scores.detach())
    if not torch.jit.is_tracing():
        _check_scores(scores, splits)
    num_classes = scores.shape[1]
    if keep_classes is not None and len(keep_classes) != len(splits):
        raise ValueError(f"keep_classes names {len(keep_classes)} images, splits {len(splits)}.")
    floor = math.log(score_threshold) if score_threshold > 0 else -math.inf
    images = torch.arange(len(splits), device=scores.device)
    images = images.repeat_interleave(row_counts(splits, scores.device))  # (N,)
    is_candidate = scores > floor
    if class_threshold > 0 and splits:
        is_candidate &= _likely_classes(scores.split(list(splits)), class_threshold)[images]
    region, label = is_candidate.nonzero(as_tuple=True)  # region by region
    image = images[region]
    order = scores[region, label].argsort(descending=True, stable=True)
    order = order[(image * num_classes + label)[order].argsort(stable=True)]
    group = (image * num_classes + label)[order]
    kept = _places(group) < first_n
    if max_classes is not None:
        favoured = torch.cat(
            [c + b * num_classes for b, c in enumerate(keep_classes or [])] or [group[:0]]
        ).to(group)
        scores = scores[region, label][order]
        kept &= _in_best_classes(group, scores, image[order], favoured, max_classes)
    order, group = order[kept], group[kept]
    region, label = region[order], label[order]
    sizes: Any = group.unique_consecutive(return_counts=True)[1]
    counts: Any = torch.bincount(image[order], minlength=len(splits))
    if torch.jit.is_tracing():
        counts = counts.unbind()
    else:
        sizes, counts = tuple(sizes.tolist()), tuple(counts.tolist())
    return Candidates(
        region=region,
        label=label,
        rank=_places(group),
        log_scores=widen(log_scores[region, label]),
        sizes=sizes,
        splits=counts,
        region_splits=splits,
        first_n=first_n,
    )


def _check_scores(scores: Tensor, splits: Sequence[int]) -> None:
    if scores.dim() != 2 or scores.shape[0] != sum(splits):
        raise ValueError(
            f"log_scores must be ({sum(splits)}, C) for these splits, got {tuple(scores.shape)}."
        )
    if (scores > 1e-5).any():
        raise ValueError(
            "log_scores must be logarithms of probabilities, at most 0, "
            f"got {scores.nan_to_num(0).max():.3g}."
        )
