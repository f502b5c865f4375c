"""Every configuration key of this package; each lives under a node of ours."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_relation_heads_config(cfg: CN) -> None:
    """Adds the keys of this package to a Detectron2 config; a second call changes nothing."""
    if "RELATION" not in cfg.MODEL:
        cfg.MODEL.RELATION = _relation()


def relation_node(cfg: CN) -> CN:
    """`cfg.MODEL.RELATION`, or its defaults where Detectron2's own `get_cfg()` made the config."""
    return cfg.MODEL.RELATION if "RELATION" in cfg.MODEL else _relation()


def _relation() -> CN:
    """Object relation modules (Hu et al. 2018), for RelationROIHeads and Res5RelationROIHeads."""
    node = CN()
    # r1, r2: modules after the first and the second fc of the box head. [0, 0] is the stock head,
    # bit for bit.
    node.NUM_RELATIONS = [1, 1]
    # H (N_r in the paper): attention heads of a module; divides the width of the features.
    node.NUM_HEADS = 16
    # d_k: channels of queries and keys per head.
    node.KEY_DIM = 64
    # w_G: "relation" (published; cannot tell left from right), "signed" (can), "unary" (boxes
    # embedded one by one), "none" (appearance alone).
    node.GEOMETRY = "relation"
    # Unit of displacements between boxes: size of the "query" (released code) or of the "key"
    # (paper's text).
    node.NORMALIZE_BY = "query"
    # Weights at the start: "zero" (every module starts as the identity), "xavier" (learns faster in
    # short schedules, but made an R18-FPN from scratch unstable), "normal" (N(0, 0.01), released).
    node.INIT = "zero"
    # Training: which regions take part. "loss": all proposals, the loss on a sample of
    # ROI_HEADS.BATCH_SIZE_PER_IMAGE, so that the keys are distributed as at test time. "regions":
    # the sample alone. "off": all, and all in the loss.
    node.SAMPLING = "loss"
    # Whether ground-truth boxes appended to the proposals in training are keys too (they never are
    # at test time).
    node.GT_AS_KEYS = False
    return node
