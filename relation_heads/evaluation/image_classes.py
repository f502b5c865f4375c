"""Top-1 and top-5 accuracy of an image classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor

TOP = (1, 5)


class ImageClassEvaluator(DatasetEvaluator):
    """In per cent of the images: `top1`, and `top5` where there are more than 5 classes."""

    def reset(self) -> None:
        """Forgets the images so far."""
        self._ranks: list[int] = []
        self._num_classes = 0

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Any]) -> None:
        """
        Args:
            inputs: with `label`.
            outputs: with `class_probs` (K,).
        """
        for given, output in zip(inputs, outputs, strict=True):
            self._num_classes = len(output["class_probs"])
            self._ranks.append(rank_of(output["class_probs"], given["label"]))

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """{"classification": {"top1": ..., "top5": ...}}; None in all processes but the main one.

        Raises:
            ValueError: there was no image.
        """
        ranks = [rank for part in comm.gather(self._ranks) for rank in part]
        if not comm.is_main_process():
            return None
        if not ranks:
            raise ValueError("No image was classified, so there is no accuracy.")
        tops = [k for k in TOP if k == 1 or k < self._num_classes]
        shares = {f"top{k}": 100 * sum(r < k for r in ranks) / len(ranks) for k in tops}
        return {"classification": shares}


def rank_of(probs: Tensor, label: int) -> int:
    """How many other classes are not below the class of an image: 0 where it is found. Equal ones
    are, and so are numbers that are none: a classifier that says nothing finds nothing.

    Args:
        probs: (K,).
        label: from 0.
    """
    return int((~(probs < probs[label])).sum()) - 1
