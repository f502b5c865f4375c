"""Every configuration key of this package; each lives under a node of ours.

The keys of Detectron2's DeepLab project (dilated backbone, poly schedule, crops) are known too.
"""

from __future__ import annotations

from collections.abc import Callable

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.projects.deeplab import add_deeplab_config


def get_cfg() -> CN:
    """Detectron2's default config with the keys of this package."""
    cfg = get_detectron2_cfg()
    add_relation_heads_config(cfg)
    return cfg


def add_relation_heads_config(cfg: CN) -> None:
    """Adds the keys of this package to a Detectron2 config; a second call changes nothing."""
    for name, defaults in NODES.items():
        if name not in cfg.MODEL:
            cfg.MODEL[name] = defaults()
    if "TRAIN_ONLY" not in cfg.MODEL:
        # Patterns of parameter names, such as "roi_heads.mechanism.*": only these are trained. []
        # trains everything. Only this package's trainer reads the key (`engine.freeze.train_only`).
        cfg.MODEL.TRAIN_ONLY = []
        cfg.__dict__[CN.DEPRECATED_KEYS].discard("MODEL.TRAIN_ONLY")  # see `d2_env`
    if "MAX_BROKEN" not in cfg.DATALOADER:
        # Training images that cannot be read, before a process stops; others take their places.
        cfg.DATALOADER.MAX_BROKEN = 10
    if "STEM_TYPE" not in cfg.MODEL.RESNETS:  # only what DeepLab added reads its keys
        add_deeplab_config(cfg)


def node(cfg: CN, name: str) -> CN:
    """`cfg.MODEL.<name>`, or its defaults where Detectron2's own `get_cfg()` made the config.

    Args:
        cfg: any config of Detectron2.
        name: one of `NODES`.
    """
    return cfg.MODEL[name] if name in cfg.MODEL else NODES[name]()


def _relation() -> CN:
    """Object relation modules (Hu et al. 2018) in the box head, for every head of this package with
    MODEL.ROI_BOX_HEAD.NAME RelationBoxHead, and for RelationROIHeads, Res5RelationROIHeads and
    CascadeRelationROIHeads."""
    node = CN()
    # r1, r2: modules after the first and the second fc of the box head. [0, 0] is the stock head,
    # bit for bit.
    node.NUM_RELATIONS = [1, 1]
    # H (N_r in the paper): attention heads of a module; divides the width of the features.
    node.NUM_HEADS = 16
    # d_k: channels of queries and keys per head.
    node.KEY_DIM = 64
    # Of what enters W_Q, W_K and W_V: "max_rms", rows of a root mean square above 1 (W_V: 2) are
    # scaled down to it, and it trains where the stock head does; or "" (published), which diverges.
    node.NORM = "max_rms"
    # w_G: "relation" (published; cannot tell left from right), "signed" (can), "unary" (boxes
    # embedded one by one), "none" (appearance alone); or "position" (Relation-DETR, Hou et al.
    # 2024: a bias is added to the logits instead; cannot tell left from right; has no "triton").
    node.GEOMETRY = "relation"
    # Unit of displacements between boxes: size of the "query" (released code) or of the "key"
    # (paper's text).
    node.NORMALIZE_BY = "query"
    # Weights at the start: "zero" (every module starts as the identity), "xavier" (learns faster in
    # short schedules, but made an R18-FPN from scratch unstable), "normal" (N(0, 0.01), released).
    node.INIT = "zero"
    # Which regions the head sees in training. "loss": all proposals, as at test time, and the loss
    # is on a sample of ROI_HEADS.BATCH_SIZE_PER_IMAGE. "regions": the sample alone. "off": all
    # proposals, and all are in the loss.
    node.SAMPLING = "loss"
    # Detectron2 appends ground-truth boxes to the proposals in training. Whether other regions
    # listen to these boxes, which do not exist at test time.
    node.GT_AS_KEYS = False
    # How the same function is computed: "simple" (all pairs at once), "fused" (block by block, in
    # less time and memory), "triton" (a kernel computes the gate of all pairs; no GPU has run it
    # yet; an error where it cannot run), or "auto": fused above some 180 regions, else simple,
    # never triton. In torch.jit.trace, torch.export and torch.compile all of them are simple.
    node.IMPLEMENTATION = "auto"
    return node


def _sgrn() -> CN:
    """SGRN (Xu et al. 2019), for SGRNROIHeads, Res5SGRNROIHeads and CascadeSGRNROIHeads.
    configs/heads/sgrn_paper.yaml has the paper's choices, sgrn_official.yaml the released code's.
    """
    node = CN()
    # E: width of every graph layer, multiples of NUM_KERNELS. [] is the same head without a graph:
    # with REFINE False the stock head, bit for bit.
    node.GRAPH_DIMS = [512, 256]
    # K: spatial Gaussian kernels of a layer.
    node.NUM_KERNELS = 8
    # T: neighbours that every region keeps; in images with fewer regions all of them.
    node.NUM_NEIGHBORS = 32
    # L: width of the relation learner.
    node.LATENT_DIM = 256
    # x, the node of a region: "soft", the mean of the base classifier's rows, weighted by
    # softmax(scores) (paper), or "hard", the row of the best class (released code).
    node.NODE_EMBED = "soft"
    # Whether the classifier's biases are the last channel of the nodes.
    node.POOL_BIAS = True
    # Whether gradients of the graph stop at the classifier's rows, and at the learner's features.
    node.DETACH_POOL = True
    node.DETACH_LEARNER_INPUT = True
    # e, the score of an edge: "dot" product, which favours regions of large norm, or "cosine" times
    # a learned factor.
    node.SIMILARITY = "dot"
    # How e is normalised over the neighbours: "softmax", "none" (paper), "joint" (one softmax of e
    # and kernel).
    node.EDGE_NORM = "softmax"
    # Which graph layers weight their sum by e: the "first" or "all".
    node.EDGE_LAYERS = "first"
    # Adds log p(not background) of the base classifier to e, so that regions listen to objects (not
    # in the paper). Most proposals are background: without this key little is learned among them.
    node.FOREGROUND_EDGES = True
    # w, the weight of a kernel on an edge, sums to 1 over the "kernels" of an edge (released code),
    # over the "neighbors" of a kernel, or is not normalised ("none", paper).
    node.KERNEL_NORM = "kernels"
    # Sigma of the kernels: "diag" or "full" (paper).
    node.COVARIANCE = "diag"
    # theta: "atan2", wrapped, or "arctan" as printed in the paper, which cannot tell left from
    # right.
    node.ANGLE = "atan2"
    # Dropout between the graph layers.
    node.DROPOUT = 0.5
    # "LN": LayerNorm of h. The paper has none (""), and h starts about 1e-3 times as large as f.
    node.OUT_NORM = "LN"
    # Two stages (released code): the graph is on the boxes that the base predictor refined, which
    # are labelled and sampled anew at ROI_BOX_CASCADE_HEAD.IOUS[1].
    node.REFINE = False
    # Whether the second stage embeds its boxes with the box head of the first stage.
    node.SHARE_FC = True
    # Detections come from the "last" stage, from the "mean" of both stages' logits, or from NMS
    # over the boxes of both stages ("union_nms", released code).
    node.TEST_ENSEMBLE = "last"
    # The box features get the mean of the gradients of both predictors' losses, as in Detectron2's
    # Cascade R-CNN. False (released code): the sum, which diverges at Detectron2's learning rates.
    node.MEAN_GRADIENT = True
    # Weights of the losses of the base predictor and of the second predictor; 0 leaves them out.
    node.LOSS_WEIGHTS = [1.0, 1.0]
    # As in MODEL.RELATION.
    node.SAMPLING = "loss"
    node.GT_AS_KEYS = False
    return node


def _reasoning() -> CN:
    """Iterative visual reasoning (Chen et al. 2018), for ReasoningROIHeads, Res5ReasoningROIHeads,
    CascadeReasoningROIHeads and the heads of region classification. The widths are lean;
    configs/heads/reasoning_paper.yaml has the paper's widths."""
    node = CN()
    # "local" (spatial memory), "global" (graph of regions and classes), or both. [] is the stock
    # head, bit for bit.
    node.MODULES = ["local", "global"]
    # I: updates and predictions of each module. (The released MEM.ITER = 3 is 2.)
    node.NUM_ITERS = 3
    # Whether each module is updated with the predictions of both.
    node.CROSS_FEED = True
    # Floor of the example weights max(1 - p, BETA) (eq. 6); 1 weights all alike.
    node.BETA = 0.5
    # Weights of the losses of the local, the global and the final prediction.
    node.LOSS_WEIGHTS = [1.0, 1.0, 1.0]
    # A region counts by its probability to be an object, both where it writes to the memory and
    # where others listen to it (not in the paper, in which every region is an object).
    node.FOREGROUND = True
    # The prediction that is used at test time: "final", "plain" (the base predictor's), "local" or
    # "global" (the last one of that module), "local1", ...
    node.TEST_PREDICTION = "final"
    # As in MODEL.RELATION.
    node.SAMPLING = "loss"
    node.GT_AS_KEYS = False

    node.LOCAL = CN()
    # The feature map that regions are cropped from; the memory has its grid. Empty: p4, or the only
    # map of C4, C5 and DC5 models.
    node.LOCAL.IN_FEATURE = ""
    # D: channels of the memory.
    node.LOCAL.CHANNELS = 256
    # P: cells of a crop, per side.
    node.LOCAL.CROP_SIZE = 7
    # Cells of the trainable initial memory.
    node.LOCAL.INIT_SIZE = [20, 20]
    # Fully connected layers before the classifier, and their width.
    node.LOCAL.NUM_FC = 2
    node.LOCAL.FC_DIM = 1024
    # Cell i is at pixel (i + 1/2) stride, as in Detectron2's aligned operators, or at i stride
    # (released code); for regions, and where the initial memory is resized.
    node.LOCAL.HALF_PIXEL = True
    # Weights at the start: "he", or "normal", N(0, 0.01) (released), which learns nothing for
    # hundreds of iterations.
    node.LOCAL.INIT = "he"

    node.GLOBAL = CN()
    # D: channels of region and class nodes.
    node.GLOBAL.CHANNELS = 256
    # Layers of eq. 2-4, each with a residual.
    node.GLOBAL.NUM_STACKS = 3
    # Kinds of spatial edges, some of left, right, top, bottom, iou. [] leaves the spatial path out.
    node.GLOBAL.RELATIONS = ["left", "right", "top", "bottom", "iou"]
    # Delta of their kernel exp(-distance / Delta), pixels of the input image.
    node.GLOBAL.BANDWIDTH = 50.0
    # Divide the edges of a region by their sum, which reaches 30 among hundreds of proposals.
    node.GLOBAL.NORMALIZE_EDGES = True
    # Knowledge graph between classes (.npz or .json); empty leaves the semantic path out.
    node.GLOBAL.GRAPH_FILE = ""
    # Channels learned per class where the graph brings no embeddings.
    node.GLOBAL.EMBEDDING_DIM = 300
    return node


def _context_blocks() -> CN:
    """GloRe, GC, NL and SE inside a backbone, for build_context_resnet_backbone,
    build_context_resnet_fpn_backbone and build_context_backbone."""
    node = CN()
    # A list of dicts such as {name: GC, stages: [res4, res5], position: after_conv3, ratio: 0.0625}
    # (`relation_heads/modeling/context_plugins.py`). [] is the stock backbone.
    node.PLUGINS = []
    # What build_context_backbone builds: any registered builder of a ResNet or RegNet.
    node.BUILDER = "build_resnet_fpn_backbone"
    return node


def _duplicate_removal() -> CN:
    """The end of an ROI head, for every detecting head of this package. DuplicateRemovalROIHeads,
    with its Res5 and Cascade forms, are Detectron2's own heads with this end."""
    node = CN()
    # "nms" (Detectron2's, at ROI_HEADS.NMS_THRESH_TEST), "soft_nms" (Bodla et al. 2017; works with
    # any trained detector), or "learned" (Hu et al. 2018; needs the network that LEARN trained).
    node.TEST_METHOD = "nms"
    # Factor of a score: "gaussian", exp(-IoU^2 / SOFT_NMS_SIGMA), or "linear", 1 - IoU above
    # ROI_HEADS.NMS_THRESH_TEST.
    node.SOFT_NMS_DECAY = "gaussian"
    node.SOFT_NMS_SIGMA = 0.5
    # Whether the head has the network of Hu et al. (2018) and trains it.
    node.LEARN = False
    # Whether its loss also trains the box features and the scores, as published. If not, the
    # detector trains bit for bit as without the network.
    node.END_TO_END = False
    # The bias of its logits at the start: -3 (released, trained with the detector), or 0 (released,
    # the network trained alone, see MODEL.TRAIN_ONLY).
    node.LOGIT_BIAS = -3.0
    # The network looks at so many boxes of a class, the best by score (released: 100, FPN 150).
    node.FIRST_N = 100
    # In training: lowest score of such a box. 0 is the released code, which has no limit.
    node.SCORE_THRESH_TRAIN = 0.001
    # At test time: a class of an image whose best score is below this, and is not the best of all
    # classes, has no detections (released: 0.01, FPN 0.05). 0: no limit.
    node.CLASS_THRESH_TEST = 0.0
    # The network looks at so many classes of an image, the best by score; 0: all. With thousands of
    # classes this bounds the memory.
    node.MAX_CLASSES = 0
    # eta: above this IoU a box can be the one of an object; one output of the network for each.
    node.THRESHOLDS = [0.5, 0.6, 0.7, 0.8, 0.9]
    # Weight of boxes that should stay, and weight of loss_duplicates.
    node.POSITIVE_WEIGHT = 4.0
    node.LOSS_WEIGHT = 1.0
    return node


def _glore_head() -> CN:
    """The FCN head with global reasoning (Chen et al. 2019), for GloReFCNHead. MODEL.SEM_SEG_HEAD
    has its width, norm and classes."""
    node = CN()
    # N: nodes of a unit, which has 2 N states.
    node.NUM_NODES = 64
    # Units in a row; 0 is the same head without reasoning, an FCN.
    node.NUM_UNITS = 1
    # Probability that a channel is dropped before the last convolution.
    node.DROPOUT = 0.1
    return node


def _efficientnet_lite() -> CN:
    """EfficientNet-Lite, for build_efficientnet_lite_backbone and
    build_efficientnet_lite_fpn_backbone."""
    node = CN()
    # 0, 1 or 2: lite0 is the smallest.
    node.VARIANT = 0
    # Of the backbone without FPN; with FPN they are MODEL.FPN.IN_FEATURES.
    node.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    return node


def _torchvision() -> CN:
    """A classification network of torchvision, for build_torchvision_backbone and
    build_torchvision_fpn_backbone."""
    node = CN()
    # Of torchvision.models, such as "resnet18"; MODEL.WEIGHTS is torchvision's file for it.
    node.NAME = "resnet50"
    # Of the backbone without FPN; with FPN they are MODEL.FPN.IN_FEATURES.
    node.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    return node


# Name below MODEL -> its defaults.
NODES: dict[str, Callable[[], CN]] = {
    "RELATION": _relation,
    "SGRN": _sgrn,
    "REASONING": _reasoning,
    "CONTEXT_BLOCKS": _context_blocks,
    "DUPLICATE_REMOVAL": _duplicate_removal,
    "GLORE_HEAD": _glore_head,
    "EFFICIENTNET_LITE": _efficientnet_lite,
    "TORCHVISION": _torchvision,
}
