"""Keys of Detectron2 with right and wrong values, and values that do not fit each other.

What is right stands here, key by key, for a small Faster R-CNN on a narrow R50-FPN.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, Literal

from tests.robustness.case import ACCEPTED, SENTENCE, Case, Workshop, as_said
from tests.robustness.families.keys import cases_of_values, text, values_of

Count = Annotated[int, "[1, inf)"]
Natural = Annotated[int, "[0, inf)"]
Positive = Annotated[float, "(0, inf)"]
NotNegative = Annotated[float, "[0, inf)"]
Share = Annotated[float, "[0, 1]"]
Norm = Literal["", "BN", "SyncBN", "GN", "LN", "FrozenBN"]
Loss = Literal["smooth_l1", "giou", "diou", "ciou"]
Pooler = Literal["ROIAlign", "ROIAlignV2", "ROIPool"]
KINDS: dict[str, Any] = {
    "DATALOADER.NUM_WORKERS": Natural,
    "DATALOADER.REPEAT_THRESHOLD": NotNegative,
    "DATALOADER.ASPECT_RATIO_GROUPING": bool,
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": bool,
    "INPUT.MIN_SIZE_TEST": Natural,
    "INPUT.MAX_SIZE_TRAIN": Count,
    "INPUT.MAX_SIZE_TEST": Count,
    "INPUT.RANDOM_FLIP": Literal["none", "horizontal", "vertical"],
    "INPUT.MASK_FORMAT": Literal["polygon", "bitmask"],
    "INPUT.CROP.TYPE": Literal["relative", "relative_range", "absolute", "absolute_range"],
    "INPUT.CROP.ENABLED": bool,
    "MODEL.BACKBONE.FREEZE_AT": Literal[0],
    "MODEL.FPN.OUT_CHANNELS": Count,
    "MODEL.FPN.NORM": Norm,
    "MODEL.FPN.FUSE_TYPE": Literal["sum", "avg"],
    "MODEL.PROPOSAL_GENERATOR.NAME": Literal["RPN"],
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": Natural,
    "MODEL.ANCHOR_GENERATOR.NAME": Literal["DefaultAnchorGenerator"],
    "MODEL.ANCHOR_GENERATOR.OFFSET": Annotated[float, "[0, 1)"],
    "MODEL.META_ARCHITECTURE": Literal["GeneralizedRCNN"],
    "MODEL.RPN.HEAD_NAME": Literal["StandardRPNHead"],
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": Count,
    "MODEL.RPN.POSITIVE_FRACTION": Share,
    "MODEL.RPN.NMS_THRESH": Share,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": Count,
    "MODEL.RPN.POST_NMS_TOPK_TEST": Count,
    "MODEL.RPN.LOSS_WEIGHT": NotNegative,
    "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": NotNegative,
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": Loss,
    "MODEL.RPN.SMOOTH_L1_BETA": NotNegative,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": Count,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": Share,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": Share,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": Share,
    "MODEL.ROI_HEADS.NUM_CLASSES": Literal[3],
    "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": bool,
    "MODEL.ROI_BOX_HEAD.NAME": Literal["FastRCNNConvFCHead"],
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": Pooler,
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": Natural,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": Count,
    "MODEL.ROI_BOX_HEAD.NUM_CONV": Natural,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": Count,
    "MODEL.ROI_BOX_HEAD.FC_DIM": Count,
    "MODEL.ROI_BOX_HEAD.NORM": Norm,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": Loss,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": NotNegative,
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": NotNegative,
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": bool,
    "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": bool,
    "MODEL.RESNETS.DEPTH": Literal[50, 101, 152],
    "MODEL.RESNETS.NORM": Literal["", "BN", "SyncBN", "LN"],
    "MODEL.RESNETS.STEM_OUT_CHANNELS": Count,
    "MODEL.RESNETS.STRIDE_IN_1X1": bool,
    "SOLVER.MAX_ITER": Count,
    "SOLVER.BASE_LR": Positive,
    "SOLVER.BASE_LR_END": NotNegative,
    "SOLVER.MOMENTUM": Annotated[float, "[0, 1)"],
    "SOLVER.GAMMA": Positive,
    "SOLVER.WEIGHT_DECAY": NotNegative,
    "SOLVER.WEIGHT_DECAY_NORM": NotNegative,
    "SOLVER.BIAS_LR_FACTOR": NotNegative,
    "SOLVER.CHECKPOINT_PERIOD": Count,
    "SOLVER.WARMUP_FACTOR": Share,
    "SOLVER.WARMUP_ITERS": Natural,
    "SOLVER.WARMUP_METHOD": Literal["linear", "constant"],
    "SOLVER.NESTEROV": bool,
    "SOLVER.LR_SCHEDULER_NAME": Literal["WarmupMultiStepLR", "WarmupCosineLR", "WarmupPolyLR"],
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": Positive,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": Annotated[float, "(0, inf]"],
    "TEST.EVAL_PERIOD": Natural,
    "TEST.DETECTIONS_PER_IMAGE": Annotated[int, "[-1, inf)"],
    "TEST.PRECISE_BN.NUM_ITER": Count,
    "TEST.AUG.MAX_SIZE": Count,
    "VIS_PERIOD": Natural,
}
# Lists, and what must fit other keys: key -> (right, wrong).
LISTS: dict[str, tuple[list[Any], list[Any]]] = {
    "DATASETS.TRAIN": ([], [("tinny",), ("tiny", "tiny"), (5,), "tiny", ("",), ({"a": 1},)]),
    "DATASETS.TEST": ([()], [("tiny ",), ("nothing", "tiny"), (None,), ([],)]),
    "INPUT.MIN_SIZE_TRAIN": ([(33,), (48, 80)], [(-5,), (31.5,), ("a",), (float("nan"),), ((),)]),
    "INPUT.CROP.SIZE": ([[0.5, 1.0]], [[0.0, 0.5], [-0.5, 0.5], [0.5], [0.5] * 3, ["a", 1.0]]),
    "INPUT.FORMAT": (["RGB"], ["RGBB", "grey", "bgr", ""]),
    "MODEL.PIXEL_MEAN": ([[100.0, 90.0, 80.0]], [[100.0], [], [1.0] * 4, ["a", "b", "c"]]),
    "MODEL.PIXEL_STD": ([[50.0, 1.5, 3.0]], [[0.0, 1.0, 1.0], [-9.0, 1.0, 1.0], [2.0, 2.0]]),
    "MODEL.ANCHOR_GENERATOR.SIZES": (
        [[[24.0]], [[7], [9], [33], [65], [90]]],
        [[[0], [1], [2], [3], [4]], [[8], [16]], [8], []],
    ),
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": (
        [[[1.0]], [[0.4, 2.2]]],
        [[[0.0]], [[-1.5]], [], [[1.0], [2.0]], [1.0], [["x"]]],
    ),
    "MODEL.RPN.IN_FEATURES": ([], [["p9"], [], ["res4"], ["p2", "p2"], "p2", [3]]),
    "MODEL.RPN.BBOX_REG_WEIGHTS": ([(2.0, 3.0, 1.0, 1.0)], [(1.0, 0.0, 1.0, 1.0), (1.0,) * 5]),
    "MODEL.RPN.IOU_THRESHOLDS": (
        [[0.2, 0.6]],
        [[0.6, 0.2], [0.3], [0.3, 1.5], [-0.3, 0.5], [], ["a", "b"]],
    ),
    "MODEL.RPN.IOU_LABELS": ([], [[0, 1], [0, 5, 1], [], [0, -1, 1, 1], ["a", "b", "c"]]),
    "MODEL.ROI_HEADS.IN_FEATURES": ([["p2", "p3"]], [["p10"], [], ["res5"], "p2", [None]]),
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": ([[0.4]], [[1.4], [], [0.4, 0.6], [-1.0], ["x"]]),
    "MODEL.ROI_HEADS.IOU_LABELS": ([], [[1], [0, 7], [], [0, -1, 1]]),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": (
        [(1.0, 2.0, 3.0, 4.0)],
        [(0.0,) * 4, (1.0, 1.0), (1.0, 1.0, 1.0, -2.0), ()],
    ),
    "MODEL.ROI_BOX_HEAD.NUM_FC": ([1, 3], [-2, 0, 1.5, "two"]),
    "MODEL.FPN.IN_FEATURES": ([], [["res9"], [], ["res4", "res2"], ["p2"], "res2", [4]]),
    "MODEL.BACKBONE.NAME": ([], ["build_resnet_fpn", "resnet18", "", "build_backbone"]),
    "MODEL.RESNETS.OUT_FEATURES": ([], [["res9"], [], ["res4"], "res2", [None]]),
    "MODEL.RESNETS.RES2_OUT_CHANNELS": ([24], [0, -64, 32.5]),
    "MODEL.RESNETS.NUM_GROUPS": ([1, 2], [0, -1, 1.5]),
    "MODEL.RESNETS.RES5_DILATION": ([1], [0, 3, -1, 4]),
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": ([[False] * 4], [[False] * 3, [], [0] * 4, "x"]),
    "MODEL.DEVICE": (["cpu"], ["gpu", "cpu0", "cuda:-1", "CPU", "", "tpu:x"]),
    "MODEL.WEIGHTS": ([], ["nothing.pth", "/", "output/../x.pkl", ".", "ftp:/x"]),
    "MODEL.KEYPOINT_ON": ([False], [True]),
    "MODEL.MASK_ON": ([False], [True]),
    "MODEL.LOAD_PROPOSALS": ([False], [True]),
    "OUTPUT_DIR": ([], ["", "/proc/nothing", "/dev/null", "/dev/null/out", "x" * 5000, "a\0b"]),
    "SEED": ([5, -1], [2**70, 1.5, "x", None]),
    "SOLVER.STEPS": ([(4, 9), ()], [(-3,), (0,), (9, 4), (2.5,), ("a",), ("",)]),
    "SOLVER.IMS_PER_BATCH": ([1, 3], [0, -4, 1.5]),
    "SOLVER.REFERENCE_WORLD_SIZE": ([0, 1], [-1, 1.5]),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": (["value", "norm", "full_model"], ["values", "", "Norm"]),
    "SOLVER.NUM_DECAYS": ([3], [-1, 2.5]),
    "TEST.AUG.MIN_SIZES": ([(60, 70)], [(-5,), ("x",), ()]),
    "TEST.EXPECTED_RESULTS": ([[["bbox", "AP", 38.5, 0.2]]], [[["bbox"]], [5], "x"]),
    "TEST.KEYPOINT_OKS_SIGMAS": ([[]], [["a"], [-1.0], "x"]),
    "FLOAT32_PRECISION": (["", "high", "highest", "medium"], ["low", "HIGH"]),
    "VERSION": ([2], [3, "x"]),
}
# Keys that are wrong or right together: (keys and values, one of what is named; none if right).
TOGETHER: list[tuple[list[Any], tuple[str, ...]]] = [
    (["MODEL.ROI_BOX_HEAD.USE_FED_LOSS", True], ("USE_FED_LOSS", "USE_SIGMOID_CE")),
    (["MODEL.ROI_BOX_HEAD.USE_FED_LOSS", True, "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True],
     ("FED_LOSS_NUM_CLASSES",)),
    (["MODEL.ROI_BOX_HEAD.USE_FED_LOSS", True, "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True,
      "MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES", 2], ()),
    (["SOLVER.AMP.ENABLED", True], ("SOLVER.AMP.ENABLED",)),
    (["MODEL.RESNETS.DEPTH", 34, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64], ()),
    (["MODEL.RESNETS.DEPTH", 34], ("RES2_OUT_CHANNELS",)),
    (["MODEL.RESNETS.RES5_DILATION", 2], ("log2 contiguous",)),
    (["MODEL.RESNETS.DEPTH", 101, "MODEL.RESNETS.NUM_GROUPS", 32,
      "MODEL.RESNETS.WIDTH_PER_GROUP", 2], ()),
    (["MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.NUM_GROUPS", 3], ()),
    (["MODEL.RESNETS.DEPTH", 34, "MODEL.RESNETS.DEFORM_ON_PER_STAGE", [True] * 4],
     ("DEFORM_ON_PER_STAGE",)),
    (["MODEL.RESNETS.NORM", "GN"], ("num_groups (32)",)),
    (["MODEL.FPN.OUT_CHANNELS", 50, "MODEL.FPN.NORM", "GN"], ("GN",)),
    (["MODEL.ROI_BOX_HEAD.NUM_CONV", 2, "MODEL.ROI_BOX_HEAD.CONV_DIM", 48,
      "MODEL.ROI_BOX_HEAD.NORM", "GN"], ("GN",)),
    (["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"], ("MIN_SIZE_TRAIN",)),
    (["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "INPUT.MIN_SIZE_TRAIN", (60, 70)], ()),
    (["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "INPUT.MIN_SIZE_TRAIN", (70, 60)],
     ("MIN_SIZE_TRAIN",)),
    (["INPUT.FORMAT", "L"], ()),
    (["INPUT.FORMAT", "RGBA"], ("PIXEL_MEAN", "FORMAT")),
    (["INPUT.FORMAT", "L", "MODEL.PIXEL_MEAN", [90.0], "MODEL.PIXEL_STD", [60.0]], ()),
    (["INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", [1.5, 0.5]], ("INPUT.CROP.SIZE",)),
    (["INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [32, 48]], ()),
    (["MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"], ("PROPOSAL",)),
    (["MODEL.LOAD_PROPOSALS", True, "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"],
     ("PROPOSAL_FILES",)),
    (["MODEL.PROPOSAL_GENERATOR.NAME", "RRPN"], ("PROPOSAL_GENERATOR", "ANCHOR_GENERATOR")),
    (["MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator"], ("ANCHOR_GENERATOR",)),
    (["MODEL.META_ARCHITECTURE", "RetinaNet"], ("MODEL.RETINANET",)),
    (["MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.ROI_HEADS.NAME", "SGRNROIHeads"],
     ("MODEL.META_ARCHITECTURE",)),
    (["MODEL.META_ARCHITECTURE", "PanopticFPN"], ("sem_seg", "SEM_SEG_HEAD")),
    (["MODEL.META_ARCHITECTURE", "SemanticSegmentor"], ("SEM_SEG_HEAD",)),
    (["MODEL.META_ARCHITECTURE", "ProposalNetwork"], ()),
    (["MODEL.BACKBONE.NAME", "build_resnet_backbone"], ("IN_FEATURES",)),
    (["MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone"], ()),
    (["MODEL.ROI_HEADS.NAME", "Res5ROIHeads"], ("MODEL.ROI_HEADS",)),
    (["MODEL.ROI_HEADS.NAME", "CascadeROIHeads"], ("CLS_AGNOSTIC_BBOX_REG",)),
    (["MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True],
     ()),
    (["MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True,
      "MODEL.ROI_BOX_CASCADE_HEAD.IOUS", (0.5, 0.6)], ("ROI_BOX_CASCADE_HEAD",)),
    (["MODEL.ROI_HEADS.NAME", "Res5RelationROIHeads"], ("MODEL.ROI_HEADS.NAME",)),
    (["MODEL.ROI_HEADS.NAME", "CascadeSGRNROIHeads"], ("CLS_AGNOSTIC_BBOX_REG",)),
    (["MODEL.ROI_HEADS.NAME", "ContextRes5ROIHeads"], ("MODEL.ROI_HEADS.NAME",)),
    (["MODEL.ROI_HEADS.NAME", "RelationROIHead"], ("RelationROIHeads",)),
    (["MODEL.ROI_HEADS.NAME", "RROIHeads"], ("RROIHeads", "ROI_HEADS")),
    (["MODEL.ROI_BOX_HEAD.NAME", "RelationBoxHead"], ("MODEL.ROI_HEADS.NAME",)),
    (["MODEL.SGRN.NUM_NEIGHBORS", 7], ("MODEL.SGRN",)),
    (["MODEL.DUPLICATE_REMOVAL.TEST_METHOD", "soft_nms"], ("MODEL.DUPLICATE_REMOVAL",)),
    (["MODEL.ROI_HEADS.NAME", "DuplicateRemovalROIHeads",
      "MODEL.DUPLICATE_REMOVAL.TEST_METHOD", "learned"], ("LEARN",)),
    (["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler",
      "DATALOADER.REPEAT_THRESHOLD", 0.01], ()),
    (["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSample"], ("SAMPLER_TRAIN",)),
    (["DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler"], ("RANDOM_SUBSET_RATIO",)),
    (["DATALOADER.SAMPLER_TRAIN", "WeightedTrainingSampler"], ("SAMPLER_TRAIN", "DATASET")),
    (["SOLVER.NO_SUCH_KEY", 1], ("SOLVER.NO_SUCH_KEY",)),
    (["SOLVER.BASE_LT", 0.1], ("SOLVER.BASE_LR",)),
    (["MODEL.ROI_HEADS.NUM_CLASS", 3], ("NUM_CLASSES",)),
    (["MODEL", 3], ("MODEL",)),
    (["MODEL.RELATION", "x"], ("MODEL.RELATION",)),
    (["MODEL.SGRN.NUM_KERNELS"], ("MODEL.SGRN.NUM_KERNELS",)),
    (["=", "="], ("=",)),
    (["", ""], ("key",)),
    (["MODEL.RELATION.KEY_DIM.X", 3], ("MODEL.RELATION.KEY_DIM",)),
]  # fmt: skip


def cases_of_stock_keys(shop: Workshop) -> Iterator[Case]:
    """Single keys."""
    for key, kind in KINDS.items():
        values = list(values_of(kind, shop.rng))
        if key == "MODEL.BACKBONE.FREEZE_AT":
            values = [(0, True), (-1, False), (3, False), (1.5, False), (None, False)]
        yield from cases_of_values(shop, "stock keys", key, values, [])
    for key, (right, wrong) in LISTS.items():
        values = [*((v, True) for v in right), *((v, False) for v in [*wrong, None, {"a": 1}])]
        yield from cases_of_values(shop, "stock keys", key, _own(key, values), [])


def cases_of_keys_together(shop: Workshop) -> Iterator[Case]:
    """Keys of Detectron2 and of ours that must fit each other, and keys that are none."""
    for opts, names in TOGETHER:
        run = partial(shop.train, *map(text, opts))
        shown = " ".join(map(text, opts))
        expected = SENTENCE if names else ACCEPTED
        values: tuple[str, ...] = ()
        if len(opts) > 1 and any(name in str(key) for name in names for key in opts[::2]):
            values = (f"key: {opts[0]}", *(form for v in opts[1::2] for form in as_said(v)))
        yield Case("keys together", text(opts[0]) or '""', shown, expected, run, names or (shown,),
                   values)  # fmt: skip


def _own(key: str, values: list[tuple[Any, bool]]) -> list[tuple[Any, bool]]:
    """None is the default of two keys."""
    nothing = ("MODEL.WEIGHTS",)
    return [(v, ok) for v, ok in values if not (v is None and key in nothing)]
