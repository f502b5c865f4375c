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

from .class_tables import METRICS, group_row
from .sparse_coco import CocoArrays, class_scores


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
            arrays = CocoArrays(coco_eval.eval["precision"], coco_eval.eval["recall"])
            scores = 100 * class_scores(arrays)
        rows = [
            group_row(group, scores[[groups.get(c) == group for c in classes]])
            for group in dict.fromkeys(groups.values())
        ]
        headers = ("group", "classes", *METRICS)
        table = tabulate(rows, headers, tablefmt="pipe", floatfmt=".1f", numalign="right")
        self._logger.info(f"{iou_type} results by group of classes:\n{table}")
        for group, _, *values in rows:
            results.update({f"{m}/{group}": v for m, v in zip(METRICS, values, strict=True)})
        return results
