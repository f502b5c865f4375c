"""Every configuration key of this package: its type, default and meaning.

Each class is a node below MODEL; `schema` says what the types are, and makes of them the node, the
check of its values and the table in docs/config.md. The choices of a layer's argument are stated by
the layer. The keys of Detectron2's DeepLab project (dilated backbone, poly schedule, crops) are
known too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.projects.deeplab import add_deeplab_config

from ..layers.duplicates import soft_suppression
from ..layers.object_relation import module as relation
from ..layers.out_norm import OutNorm
from ..layers.reasoning import region_edges, spatial_memory
from ..layers.region_features import learned
from ..layers.sgrn import module as sgrn
from .problems import Problem, raise_fatal
from .schema import Keys, Natural, Positive, Probability, Size, Some, Times, Weight, wrong_values

Modules = Annotated[int, "[0, 100]"]  # one after the other
Share = Annotated[float, "[0, 1)"]
Sampling = Literal["loss", "regions", "off"]
TestEnsemble = Literal["last", "mean", "union_nms"]
Module = Literal["local", "global"]
Branch = Literal["box", "mask", "keypoint"]
EdgeNorm = Literal["rows", "none"]
TestMethod = Literal["nms", "soft_nms", "learned"]
Stage = Literal["res2", "res3", "res4", "res5"]


def get_cfg() -> CN:
    """Detectron2's default config with the keys of this package."""
    cfg = get_detectron2_cfg()
    add_relation_heads_config(cfg)
    return cfg


def add_relation_heads_config(cfg: CN) -> None:
    """Adds the keys of this package to a Detectron2 config; a second call changes nothing."""
    for name, keys in NODES.items():
        cfg.MODEL.setdefault(name, keys.defaults())
    for name, keys in ADDED.items():
        for key, default in keys.defaults().items():
            cfg[name].setdefault(key, default)
    cfg.__dict__[CN.DEPRECATED_KEYS].discard("MODEL.TRAIN_ONLY")  # see `d2_env`
    if "STEM_TYPE" not in cfg.MODEL.RESNETS:  # only what DeepLab added reads its keys
        add_deeplab_config(cfg)


def node(cfg: CN, name: str) -> CN:
    """`cfg.MODEL.<name>`, or its defaults where Detectron2's own `get_cfg()` made the config.

    Args:
        cfg: any config of Detectron2.
        name: one of `NODES`.

    Raises:
        ValueError: one line for every key with a value that it cannot have.
    """
    if name not in cfg.MODEL:
        return NODES[name].defaults()
    raise_fatal(wrong_values(cfg.MODEL[name], NODES[name].types(), f"MODEL.{name}."))
    return cfg.MODEL[name]


def value_problems(cfg: CN) -> Iterator[Problem]:
    """What is wrong with single values of the keys of this package, where they are there."""
    for name, keys in NODES.items():
        if name in cfg.MODEL:
            yield from wrong_values(cfg.MODEL[name], keys.types(), f"MODEL.{name}.")
    for name, keys in ADDED.items():
        if keys.types().keys() <= cfg[name].keys():
            yield from wrong_values(cfg[name], keys.types(), f"{name}.")


class MODEL(Keys):
    """Beside Detectron2's keys."""

    # Patterns of parameter names, such as "roi_heads.mechanism.*": only these are trained. []
    # trains everything. Only this package's trainer reads the key (`engine.freeze.train_only`).
    TRAIN_ONLY: list[str] = []


class DATALOADER(Keys):
    """Beside Detectron2's keys."""

    # Training images that cannot be read, before a process stops; others take their places.
    MAX_BROKEN: Natural = 10
    # GiB of memory of a process for the maps of a frozen backbone (see MODEL.TRAIN_ONLY), which are
    # then made once for every image; 0: none. Useless with random sizes or crops.
    CACHE_MAPS: Annotated[float, "[0, 4096]"] = 0.0


class RELATION(Keys):
    """Object relation modules (Hu et al. 2018) in the box head, for every head of this package with
    MODEL.ROI_BOX_HEAD.NAME RelationBoxHead, and for RelationROIHeads, Res5RelationROIHeads and
    CascadeRelationROIHeads."""

    # r1, r2: modules after the first and the second fc of the box head. [0, 0] is the stock head,
    # bit for bit.
    NUM_RELATIONS: tuple[Modules, Modules] = (1, 1)
    # H (N_r in the paper): attention heads of a module; divides the width of the features.
    NUM_HEADS: Size = 16
    # d_k: channels of queries and keys per head.
    KEY_DIM: Size = 64
    # Of what enters W_Q, W_K and W_V: "max_rms", rows of a root mean square above 1 (W_V: 2) are
    # scaled down to it, and it trains where the stock head does; or "" (published), which diverges.
    NORM: relation.Norm = "max_rms"
    # w_G: "relation" (published; cannot tell left from right), "signed" (can), "unary" (boxes
    # embedded one by one), "none" (appearance alone); or "position" (Relation-DETR, Hou et al.
    # 2024: a bias is added to the logits instead; cannot tell left from right; has no "triton").
    GEOMETRY: relation.Geometry = "relation"
    # Unit of displacements between boxes: size of the "query" (released code) or of the "key"
    # (paper's text).
    NORMALIZE_BY: relation.NormalizeBy = "query"
    # In Cascade R-CNN: a pair is the box of the region that asks, as it was in the stage before,
    # and the box that answers, as it is in this stage (as between the layers of Relation-DETR). The
    # first stage has its own boxes alone (our choice; Relation-DETR's first layer has no bias).
    BETWEEN_STAGES: bool = False
    # Weights at the start: "zero" (every module starts as the identity), "xavier" (learns faster in
    # short schedules, but made an R18-FPN from scratch unstable), "normal" (N(0, 0.01), released).
    INIT: relation.Init = "zero"
    # Which regions the head sees in training. "loss": all proposals, as at test time, and the loss
    # is on a sample of ROI_HEADS.BATCH_SIZE_PER_IMAGE. "regions": the sample alone. "off": all
    # proposals, and all are in the loss.
    SAMPLING: Sampling = "loss"
    # Detectron2 appends ground-truth boxes to the proposals in training. Whether other regions
    # listen to these boxes, which do not exist at test time.
    GT_AS_KEYS: bool = False
    # How the same function is computed: "simple" (all pairs at once), "fused" (block by block, in
    # less time and memory), "triton" (a kernel computes the gate of all pairs; no GPU has run it
    # yet; an error where it cannot run), or "auto": fused above some 180 regions, else simple,
    # never triton. In torch.jit.trace, torch.export and torch.compile all of them are simple.
    IMPLEMENTATION: relation.Implementation = "auto"


class SGRN(Keys):
    """SGRN (Xu et al. 2019), for SGRNROIHeads, Res5SGRNROIHeads and CascadeSGRNROIHeads.
    configs/heads/sgrn_paper.yaml has the paper's choices, sgrn_official.yaml the released code's.
    """

    # E: width of every graph layer, multiples of NUM_KERNELS. [] is the same head without a graph:
    # with REFINE False the stock head, bit for bit.
    GRAPH_DIMS: list[Size] = [512, 256]
    # K: spatial Gaussian kernels of a layer.
    NUM_KERNELS: Size = 8
    # T: neighbours that every region keeps; in images with fewer regions all of them.
    NUM_NEIGHBORS: Size = 32
    # L: width of the relation learner.
    LATENT_DIM: Size = 256
    # x, the node of a region: "soft", the mean of the base classifier's rows, weighted by
    # softmax(scores) (paper), or "hard", the row of the best class (released code).
    NODE_EMBED: sgrn.Mapping = "soft"
    # Whether the classifier's biases are the last channel of the nodes.
    POOL_BIAS: bool = True
    # Whether gradients of the graph stop at the classifier's rows, and at the learner's features.
    DETACH_POOL: bool = True
    DETACH_LEARNER_INPUT: bool = True
    # e, the score of an edge: "dot" product, which favours regions of large norm, or "cosine" times
    # a learned factor.
    SIMILARITY: sgrn.Similarity = "dot"
    # How e is normalised over the neighbours: "softmax", "none" (paper), "joint" (one softmax of e
    # and kernel).
    EDGE_NORM: sgrn.EdgeNorm = "softmax"
    # Which graph layers weight their sum by e: the "first" or "all".
    EDGE_LAYERS: sgrn.EdgeLayers = "first"
    # Adds log p(not background) of the base classifier to e, so that regions listen to objects (not
    # in the paper). Most proposals are background: without this key little is learned among them.
    FOREGROUND_EDGES: bool = True
    # w, the weight of a kernel on an edge, sums to 1 over the "kernels" of an edge (released code),
    # over the "neighbors" of a kernel, or is not normalised ("none", paper).
    KERNEL_NORM: sgrn.KernelNorm = "kernels"
    # Sigma of the kernels: "diag" or "full" (paper).
    COVARIANCE: sgrn.Covariance = "diag"
    # theta: "atan2", wrapped, or "arctan" as printed in the paper, which cannot tell left from
    # right.
    ANGLE: sgrn.Angle = "atan2"
    # Dropout between the graph layers.
    DROPOUT: Share = 0.5
    # "LN": LayerNorm of h. The paper has none (""), and h starts about 1e-3 times as large as f.
    OUT_NORM: OutNorm = "LN"
    # Two stages (released code): the graph is on the boxes that the base predictor refined, which
    # are labelled and sampled anew at ROI_BOX_CASCADE_HEAD.IOUS[1].
    REFINE: bool = False
    # Whether the second stage embeds its boxes with the box head of the first stage.
    SHARE_FC: bool = True
    # Detections come from the "last" stage, from the "mean" of both stages' logits, or from NMS
    # over the boxes of both stages ("union_nms", released code).
    TEST_ENSEMBLE: TestEnsemble = "last"
    # The box features get the mean of the gradients of both predictors' losses, as in Detectron2's
    # Cascade R-CNN. False (released code): the sum, which diverges at Detectron2's learning rates.
    MEAN_GRADIENT: bool = True
    # Weights of the losses of the base predictor and of the second predictor; 0 leaves them out.
    LOSS_WEIGHTS: tuple[Weight, Weight] = (1.0, 1.0)
    # As in MODEL.RELATION.
    SAMPLING: Sampling = "loss"
    GT_AS_KEYS: bool = False


class REASONING_RCNN(Keys):
    """Reasoning-RCNN (Xu et al. 2019), for ReasoningRCNNROIHeads, Res5ReasoningRCNNROIHeads and
    CascadeReasoningRCNNROIHeads. configs/heads/reasoning_rcnn_official.yaml has the released code's
    choices."""

    # E: width of what the classes tell a region. 0 is the same head without it: with REFINE False
    # the stock head, bit for bit.
    CHANNELS: Annotated[int, "[0, 65536]"] = 256
    # Channels to which the backbone's maps are squeezed before they are pooled.
    SQUEEZE_CHANNELS: Size = 64
    # Knowledge graph between classes (.npz or .json); empty: every class hears itself alone.
    GRAPH_FILE: str = ""
    # Weights of the edges: "rows", those that a class hears sum to 1, as much as it hears itself,
    # and all relations count alike; "none", as in the file (published; made for its own files).
    EDGE_NORM: EdgeNorm = "rows"
    # "LN": LayerNorm of what a region is told, which starts about 1e-5 times as large as its
    # features. The paper has none ("").
    OUT_NORM: OutNorm = "LN"
    # As in MODEL.SGRN; there is one box head for both stages.
    REFINE: bool = False
    TEST_ENSEMBLE: TestEnsemble = "last"
    MEAN_GRADIENT: bool = True
    LOSS_WEIGHTS: tuple[Weight, Weight] = (1.0, 1.0)


class REASONING(Keys):
    """Iterative visual reasoning (Chen et al. 2018), for ReasoningROIHeads, Res5ReasoningROIHeads,
    CascadeReasoningROIHeads and the heads of region classification. The widths are lean;
    configs/heads/reasoning_paper.yaml has the paper's widths."""

    # "local" (spatial memory), "global" (graph of regions and classes), or both. [] is the stock
    # head, bit for bit.
    MODULES: list[Module] = ["local", "global"]
    # I: updates and predictions of each module. (The released MEM.ITER = 3 is 2.)
    NUM_ITERS: Times = 3
    # Whether each module is updated with the predictions of both.
    CROSS_FEED: bool = True
    # Floor of the example weights max(1 - p, BETA) (eq. 6); 1 weights all alike.
    BETA: Probability = 0.5
    # Weights of the losses of the local, the global and the final prediction.
    LOSS_WEIGHTS: tuple[Weight, Weight, Weight] = (1.0, 1.0, 1.0)
    # A region counts by its probability to be an object, both where it writes to the memory and
    # where others listen to it (not in the paper, in which every region is an object).
    FOREGROUND: bool = True
    # The prediction that is used at test time: "final", "plain" (the base predictor's), "local" or
    # "global" (the last one of that module), "local1", ...
    TEST_PREDICTION: str = "final"
    # As in MODEL.RELATION.
    SAMPLING: Sampling = "loss"
    GT_AS_KEYS: bool = False

    class LOCAL(Keys):
        # The feature map that regions are cropped from; the memory has its grid. Empty: p4, or the
        # only map of C4, C5 and DC5 models.
        IN_FEATURE: str = ""
        # D: channels of the memory.
        CHANNELS: Size = 256
        # P: cells of a crop, per side.
        CROP_SIZE: Annotated[int, "[2, 256]"] = 7
        # Cells of the trainable initial memory.
        INIT_SIZE: tuple[Size, Size] = (20, 20)
        # Fully connected layers before the classifier, and their width.
        NUM_FC: Times = 2
        FC_DIM: Size = 1024
        # Cell i is at pixel (i + 1/2) stride, as in Detectron2's aligned operators, or at i stride
        # (released code); for regions, and where the initial memory is resized.
        HALF_PIXEL: bool = True
        # Weights at the start: "he", or "normal", N(0, 0.01) (released), which learns nothing for
        # hundreds of iterations.
        INIT: spatial_memory.Init = "he"

    class GLOBAL(Keys):
        # D: channels of region and class nodes.
        CHANNELS: Size = 256
        # Layers of eq. 2-4, each with a residual.
        NUM_STACKS: Times = 3
        # Kinds of spatial edges, some of left, right, top, bottom, iou. [] leaves the spatial path
        # out.
        RELATIONS: list[region_edges.Relation] = ["left", "right", "top", "bottom", "iou"]
        # Delta of their kernel exp(-distance / Delta), pixels of the input image.
        BANDWIDTH: Positive = 50.0
        # Divide the edges of a region by their sum, which reaches 30 among hundreds of proposals.
        NORMALIZE_EDGES: bool = True
        # Knowledge graph between classes (.npz or .json); empty leaves the semantic path out.
        GRAPH_FILE: str = ""
        # Channels learned per class where the graph brings no embeddings.
        EMBEDDING_DIM: Size = 300


class CONTEXT_BLOCKS(Keys):
    """GloRe, GC, LR, NL and SE inside a backbone, for build_context_resnet_backbone,
    build_context_resnet_fpn_backbone and build_context_backbone."""

    # A list of dicts such as {name: GC, stages: [res4, res5], position: after_conv3, ratio: 0.0625}
    # (`relation_heads/modeling/context_plugins.py`). [] is the stock backbone.
    PLUGINS: list[Any] = []
    # What build_context_backbone builds: any registered builder of a ResNet or RegNet.
    BUILDER: str = "build_resnet_fpn_backbone"


class REGION_FEATURES(Keys):
    """Learned region features (Gu et al. 2018) in place of RoIAlign, for every detecting head of
    this package; the plain one is DuplicateRemovalROIHeads, with its Res5 and Cascade forms."""

    # Which branches have them: "box", "mask", "keypoint". In a C4 model "box" is all of them. [] is
    # RoIAlign everywhere.
    BRANCHES: list[Branch] = []
    # C_E of eq. 8, and C_g.
    EMBED_DIM: Annotated[int, "[2, 65536]"] = 512
    DIM: Size = 256
    # Where a region looks: "box", "double" (twice its width and height), or "image" (the map).
    SUPPORT: learned.Support = "image"
    # Points of the grid in the box, and of the one around it, on each axis (ours: the paper has
    # some 200 places and does not say which).
    INSIDE: Annotated[int, "[1, 256]"] = 14
    AROUND: Annotated[int, "[1, 256]"] = 10


class DUPLICATE_REMOVAL(Keys):
    """The end of an ROI head, for every detecting head of this package. DuplicateRemovalROIHeads,
    with its Res5 and Cascade forms, are Detectron2's own heads with this end."""

    # "nms" (Detectron2's, at ROI_HEADS.NMS_THRESH_TEST), "soft_nms" (Bodla et al. 2017; works with
    # any trained detector), or "learned" (Hu et al. 2018; needs the network that LEARN trained).
    TEST_METHOD: TestMethod = "nms"
    # Factor of a score: "gaussian", exp(-IoU^2 / SOFT_NMS_SIGMA), or "linear", 1 - IoU above
    # ROI_HEADS.NMS_THRESH_TEST.
    SOFT_NMS_DECAY: soft_suppression.Method = "gaussian"
    SOFT_NMS_SIGMA: Positive = 0.5
    # Whether the head has the network of Hu et al. (2018) and trains it.
    LEARN: bool = False
    # Whether its loss also trains the box features and the scores, as published. If not, the
    # detector trains bit for bit as without the network.
    END_TO_END: bool = False
    # The bias of its logits at the start: -3 (released, trained with the detector), or 0 (released,
    # the network trained alone, see MODEL.TRAIN_ONLY).
    LOGIT_BIAS: Annotated[float, "[-100, 100]"] = -3.0
    # The network looks at so many boxes of a class, the best by score (released: 100, FPN 150).
    FIRST_N: Size = 100
    # In training: lowest score of such a box. 0 is the released code, which has no limit.
    SCORE_THRESH_TRAIN: Share = 0.001
    # At test time: a class of an image whose best score is below this, and is not the best of all
    # classes, has no detections (released: 0.01, FPN 0.05). 0: no limit.
    CLASS_THRESH_TEST: Share = 0.0
    # The network looks at so many classes of an image, the best by score; 0: all. With thousands of
    # classes this bounds the memory.
    MAX_CLASSES: Annotated[int, "[0, 65536]"] = 0
    # eta: above this IoU a box can be the one of an object; one output of the network for each.
    THRESHOLDS: Some[Annotated[float, "(0, 1)"]] = [0.5, 0.6, 0.7, 0.8, 0.9]
    # Weight of boxes that should stay, and weight of loss_duplicates.
    POSITIVE_WEIGHT: Weight = 4.0
    LOSS_WEIGHT: Weight = 1.0


class GLORE_HEAD(Keys):
    """The FCN head with global reasoning (Chen et al. 2019), for GloReFCNHead. MODEL.SEM_SEG_HEAD
    has its width, norm and classes."""

    # N: nodes of a unit, which has 2 N states.
    NUM_NODES: Size = 64
    # Units in a row; 0 is the same head without reasoning, an FCN.
    NUM_UNITS: Modules = 1
    # Probability that a channel is dropped before the last convolution.
    DROPOUT: Share = 0.1


class CLASSIFIER(Keys):
    """Image classifiers, for MODEL.META_ARCHITECTURE ImageClassifier (docs/classifiers.md)."""

    # Classes of the images.
    NUM_CLASSES: Size = 1000
    # Height and width of what the model sees, in pixels.
    CROP_SIZE: Size = 224
    # Short side of a test image, in pixels; the crop is its centre.
    RESIZE: Size = 256
    # In training a crop is a random part of the image, resized; the smallest, as a share of it.
    MIN_AREA: Annotated[float, "(0, 1]"] = 0.08


class EFFICIENTNET_LITE(Keys):
    """EfficientNet-Lite, for build_efficientnet_lite_backbone and
    build_efficientnet_lite_fpn_backbone."""

    # 0, 1 or 2: lite0 is the smallest.
    VARIANT: Literal[0, 1, 2] = 0
    # Of the backbone without FPN; with FPN they are MODEL.FPN.IN_FEATURES.
    OUT_FEATURES: Some[Stage] = ["res2", "res3", "res4", "res5"]


class TORCHVISION(Keys):
    """A classification network of torchvision, for build_torchvision_backbone and
    build_torchvision_fpn_backbone."""

    # Of torchvision.models, such as "resnet18"; MODEL.WEIGHTS is torchvision's file for it.
    NAME: str = "resnet50"
    # Of the backbone without FPN; with FPN they are MODEL.FPN.IN_FEATURES.
    OUT_FEATURES: Some[Stage] = ["res2", "res3", "res4", "res5"]


class LR_NET(Keys):
    """LR-Net (Hu et al. 2019), for build_lr_net_backbone and build_lr_net_fpn_backbone."""

    # Layers.
    DEPTH: Literal[26, 50] = 50
    # BN, SyncBN, LN, "" (none), or FrozenBN with trained weights, of which none are public. (No
    # GN: 100 channels are no multiple of 32.)
    NORM: Literal["", "BN", "SyncBN", "FrozenBN", "LN"] = "BN"
    # Of the backbone without FPN; with FPN they are MODEL.FPN.IN_FEATURES.
    OUT_FEATURES: Some[Stage] = ["res2", "res3", "res4", "res5"]


# By their names below MODEL, and keys that are added to nodes of Detectron2.
NODES: dict[str, type[Keys]] = {
    keys.__name__: keys
    for keys in (
        RELATION, SGRN, REASONING_RCNN, REASONING, CONTEXT_BLOCKS, REGION_FEATURES,
        DUPLICATE_REMOVAL, GLORE_HEAD, CLASSIFIER, EFFICIENTNET_LITE, TORCHVISION, LR_NET,
    )
}  # fmt: skip
ADDED: dict[str, type[Keys]] = {"MODEL": MODEL, "DATALOADER": DATALOADER}
