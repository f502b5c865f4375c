"""COCO's AP by group of classes.

The metadata of the data set says which class belongs to which group, `class_groups =
{"square_with_sun": "co-occurrence", ...}`. The AP of a group is the mean of the APs of its classes,
as COCO's AP is that of all classes; a class without an instance in the test set has no AP and does
not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.evaluation import COCOEvaluator
from tabulate import tabulate

METRICS = ("AP", "AP50", "AR")


class GroupedCOCOEvaluator(COCOEvaluator):
    """`COCOEvaluator` with the results `AP/<group>`, `AP50/<group>` and `AR/<group>` per task.

    They are percentages; NaN for a group without a test instance, or if there are no detections.
    AR is the recall among the 100 best detections of an image, averaged over IoU 0.5:0.05:0.95.
    """

    def __init__(self, dataset_name: str, *args: Any, **kwargs: Any) -> None:
        """See `COCOEvaluator`.

        Raises:
            ValueError: `class_groups` names a class that the data set does not have.
        """
        super().__init__(dataset_name, *args, **kwargs)
        groups = self._metadata.class_groups
        unknown = set(groups) - set(self._metadata.get("thing_classes", groups))
        if unknown:
            raise ValueError(
                f"class_groups of {dataset_name} has names that are not classes: {sorted(unknown)}."
            )

    def _derive_coco_results(
        self, coco_eval: Any, iou_type: str, class_names: Sequence[str] | None = None
    ) -> dict[str, float]:
        results = super()._derive_coco_results(coco_eval, iou_type, class_names)
        classes = self._metadata.thing_classes  # `class_names`, also when there is only one
        groups = self._metadata.class_groups
        if coco_eval is None:
            scores = np.full((len(classes), len(METRICS)), np.nan)
        else:
            scores = class_scores(coco_eval)
        rows = [
            _group_row(group, scores[[groups.get(c) == group for c in classes]])
            for group in dict.fromkeys(groups.values())
        ]
        headers = ("group", "classes", *METRICS)
        table = tabulate(rows, headers, tablefmt="pipe", floatfmt=".1f", numalign="right")
        self._logger.info(f"{iou_type} results by group of classes:\n{table}")
        for group, _, *values in rows:
            results.update({f"{m}/{group}": v for m, v in zip(METRICS, values, strict=True)})
        return results


def class_scores(coco_eval: Any) -> np.ndarray:
    """AP, AP50 and AR of every class.

    Args:
        coco_eval: a `COCOeval` (any implementation) after `accumulate()`.

    Returns:
        `(K, 3)` percentages at all areas and most detections; NaN for classes without an instance.
    """
    # (T, R, K, areas, max dets) and (T, K, areas, max dets); -1 where there is no ground truth.
    precision = coco_eval.eval["precision"][:, :, :, 0, -1]  # (T, R, K)
    recall = coco_eval.eval["recall"][:, :, 0, -1]  # (T, K)
    at_50 = int(np.argmin(np.abs(coco_eval.params.iouThrs - 0.5)))
    ap = precision.mean(axis=(0, 1))
    scores = 100 * np.stack([ap, precision[at_50].mean(axis=0), recall.mean(axis=0)], axis=1)
    scores[recall[0] < 0] = np.nan
    return scores


def _group_row(group: str, scores: np.ndarray) -> tuple[Any, ...]:
    """(group, how many classes, *METRICS) from the `(K', 3)` scores of the classes of a group."""
    tested = scores[~np.isnan(scores[:, 0])]
    mean = tested.mean(axis=0) if len(tested) else np.full(len(METRICS), np.nan)
    count = f"{len(tested)}" if len(tested) == len(scores) else f"{len(tested)} of {len(scores)}"
    return (group, count, *map(float, mean))
