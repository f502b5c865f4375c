"""Values of Detectron2's own keys that cannot work. Detectron2 has no bounds for them: most end in
an assertion after the model was built, some train something else than was meant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial, reduce
from typing import Any

from detectron2.config import CfgNode

from ..config.problems import Problem
from ..layers.arguments import Wrong, above, at_least, numbers, one_of, within

SAMPLERS = (
    "TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler",
    "WeightedTrainingSampler", "WeightedCategoryTrainingSampler",
)  # fmt: skip
Check = Callable[[str, Any], Wrong | None]


def _each(check_items: Callable[[str, Any], Wrong | None]) -> Check:
    """A list, each item of which is a list."""

    def check(key: str, value: Any) -> Wrong | None:
        wrong = (check_items(key, item) for item in value or [None])
        return next((Wrong(key, w.allowed, value) for w in wrong if w), None)

    return check


_POSITIVE_NUMBERS = partial(numbers, interval="(0, inf)")
ALWAYS: dict[str, Check] = {
    "DATALOADER.NUM_WORKERS": partial(at_least, minimum=0),
    "INPUT.MIN_SIZE_TEST": partial(at_least, minimum=0),  # 0: as they are
    "MODEL.ANCHOR_GENERATOR.SIZES": _each(_POSITIVE_NUMBERS),
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": _each(_POSITIVE_NUMBERS),
    "MODEL.PIXEL_STD": _POSITIVE_NUMBERS,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": partial(numbers, interval="(0, inf)", count=4),
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": partial(at_least, minimum=1),
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": partial(within, interval="[0, 1]"),
    "MODEL.ROI_HEADS.NUM_CLASSES": partial(at_least, minimum=1),
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": partial(within, interval="[0, 1]"),
    "MODEL.RPN.BBOX_REG_WEIGHTS": partial(numbers, interval="(0, inf)", count=4),
    "MODEL.RPN.NMS_THRESH": partial(within, interval="[0, 1]"),
    "MODEL.RPN.POST_NMS_TOPK_TEST": partial(at_least, minimum=1),
    "MODEL.RPN.PRE_NMS_TOPK_TEST": partial(at_least, minimum=1),
    "TEST.DETECTIONS_PER_IMAGE": partial(at_least, minimum=-1),  # -1: all
}
IN_TRAINING: dict[str, Check] = {
    "DATALOADER.MAX_BROKEN": partial(at_least, minimum=0),
    "DATALOADER.SAMPLER_TRAIN": partial(one_of, allowed=SAMPLERS),
    "INPUT.MIN_SIZE_TRAIN": partial(numbers, interval="[0, inf)"),
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": partial(at_least, minimum=1),
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": partial(within, interval="[0, 1]"),
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": partial(at_least, minimum=1),
    "MODEL.RPN.POSITIVE_FRACTION": partial(within, interval="[0, 1]"),
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": partial(at_least, minimum=1),
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": partial(at_least, minimum=1),
    "SOLVER.BASE_LR": partial(above, minimum=0),
    "SOLVER.CHECKPOINT_PERIOD": partial(at_least, minimum=1),
    "SOLVER.GAMMA": partial(above, minimum=0),
    "SOLVER.IMS_PER_BATCH": partial(at_least, minimum=1),
    "SOLVER.MAX_ITER": partial(at_least, minimum=1),
    "SOLVER.MOMENTUM": partial(within, interval="[0, 1)"),
    "SOLVER.WARMUP_FACTOR": partial(within, interval="[0, 1]"),
    "SOLVER.WARMUP_ITERS": partial(at_least, minimum=0),
    "SOLVER.WEIGHT_DECAY": partial(at_least, minimum=0),
    "TEST.EVAL_PERIOD": partial(at_least, minimum=0),
}


def stock_problems(cfg: CfgNode, eval_only: bool) -> Iterator[Problem]:
    """What is wrong with values of Detectron2's keys."""
    for key, check in (ALWAYS if eval_only else {**ALWAYS, **IN_TRAINING}).items():
        wrong = check(key, reduce(getattr, key.split("."), cfg))
        if wrong:
            yield Problem(str(wrong))
    for split in ("TRAIN", "TEST"):
        twice = [name for name, times in Counter(cfg.DATASETS[split]).items() if times > 1]
        if twice:
            yield Problem(f"DATASETS.{split} has {', '.join(twice)} more than once.")
    if not eval_only:
        if not cfg.DATASETS.TRAIN:
            yield Problem("DATASETS.TRAIN is empty: there is nothing to train on.")
        if not all(step > 0 for step in cfg.SOLVER.STEPS):
            yield Problem(f"SOLVER.STEPS must be iterations above 0, got {cfg.SOLVER.STEPS}.")
