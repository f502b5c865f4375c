"""Trainings that must diverge, whatever layer notices it first."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from tests.robustness.case import SENTENCE, Case, Workshop
from tests.robustness.families.keys import MORE

LEARNED = ["MODEL.DUPLICATE_REMOVAL.LEARN", True, "MODEL.DUPLICATE_REMOVAL.TEST_METHOD", "learned"]
FORMS = {
    "stock": [],
    "relation": ["MODEL.ROI_HEADS.NAME", "RelationROIHeads"],
    "SGRN": ["MODEL.ROI_HEADS.NAME", "SGRNROIHeads", "MODEL.SGRN.GRAPH_DIMS", [8]],
    "reasoning": MORE["MODEL.REASONING"],
    "Soft-NMS": ["MODEL.ROI_HEADS.NAME", "DuplicateRemovalROIHeads",
                 "MODEL.DUPLICATE_REMOVAL.TEST_METHOD", "soft_nms"],
    "learned duplicates": ["MODEL.ROI_HEADS.NAME", "DuplicateRemovalROIHeads", *LEARNED],
    "learned end to end": ["MODEL.ROI_HEADS.NAME", "DuplicateRemovalROIHeads", *LEARNED,
                           "MODEL.DUPLICATE_REMOVAL.END_TO_END", True],
    "relation and learned": ["MODEL.ROI_HEADS.NAME", "RelationROIHeads", *LEARNED],
}  # fmt: skip


def cases_of_divergence(shop: Workshop) -> Iterator[Case]:
    """With evaluations in between or not."""
    for name, opts in FORMS.items():
        for lr, period in ((3e7, 0), (1e15, 1)):
            run = partial(shop.train, *opts, "SOLVER.BASE_LR", lr, "SOLVER.WARMUP_ITERS", 0,
                          "SOLVER.MAX_ITER", 40, "TEST.EVAL_PERIOD", period, "OUTPUT_DIR",
                          shop.path("out"), real=True)  # fmt: skip
            shown = f"BASE_LR {lr:g}, EVAL_PERIOD {period}"
            yield Case("divergence", name, shown, SENTENCE, run, ("diverged",))
