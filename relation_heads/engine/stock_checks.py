"""Values of Detectron2's own keys that cannot work. Detectron2 has no bounds for them: most end in
an assertion after the model was built, some train something else than was meant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from detectron2.config import CfgNode

from ..config.problems import Problem
from ..config.schema import Natural, Probability, Some, wrong_values

FromOne = Annotated[int, "[1, inf)"]
Positive = Annotated[float, "(0, inf)"]
BoxWeights = tuple[Positive, Positive, Positive, Positive]
Sampler = Literal[
    "TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler",
    "WeightedTrainingSampler", "WeightedCategoryTrainingSampler",
]  # fmt: skip
ALWAYS: dict[str, Any] = {
    "DATALOADER.NUM_WORKERS": Natural,
    "INPUT.MIN_SIZE_TEST": Natural,  # 0: as they are
    "MODEL.ANCHOR_GENERATOR.SIZES": Some[Some[Positive]],
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": Some[Some[Positive]],
    "MODEL.PIXEL_STD": Some[Positive],
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": BoxWeights,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": FromOne,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": Probability,
    "MODEL.ROI_HEADS.NUM_CLASSES": FromOne,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": Probability,
    "MODEL.RPN.BBOX_REG_WEIGHTS": BoxWeights,
    "MODEL.RPN.NMS_THRESH": Probability,
    "MODEL.RPN.POST_NMS_TOPK_TEST": FromOne,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": FromOne,
    "TEST.DETECTIONS_PER_IMAGE": Annotated[int, "[-1, inf)"],  # -1: all
}
IN_TRAINING: dict[str, Any] = {
    "DATALOADER.SAMPLER_TRAIN": Sampler,
    "INPUT.MIN_SIZE_TRAIN": Some[Natural],
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": FromOne,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": Probability,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": FromOne,
    "MODEL.RPN.POSITIVE_FRACTION": Probability,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": FromOne,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": FromOne,
    "SOLVER.BASE_LR": Positive,
    "SOLVER.CHECKPOINT_PERIOD": FromOne,
    "SOLVER.GAMMA": Positive,
    "SOLVER.IMS_PER_BATCH": FromOne,
    "SOLVER.MAX_ITER": FromOne,
    "SOLVER.MOMENTUM": Annotated[float, "[0, 1)"],
    "SOLVER.STEPS": list[FromOne],
    "SOLVER.WARMUP_FACTOR": Probability,
    "SOLVER.WARMUP_ITERS": Natural,
    "SOLVER.WEIGHT_DECAY": Annotated[float, "[0, inf)"],
    "TEST.EVAL_PERIOD": Natural,
}


def stock_problems(cfg: CfgNode, eval_only: bool) -> Iterator[Problem]:
    """What is wrong with values of Detectron2's keys."""
    yield from wrong_values(cfg, ALWAYS)
    if not eval_only:
        yield from wrong_values(cfg, IN_TRAINING)
    for split in ("TRAIN", "TEST"):
        twice = [name for name, times in Counter(cfg.DATASETS[split]).items() if times > 1]
        if twice:
            yield Problem(f"DATASETS.{split} has {', '.join(twice)} more than once.")
    if not (eval_only or cfg.DATASETS.TRAIN):
        yield Problem("DATASETS.TRAIN is empty: there is nothing to train on.")
