"""ROI heads that do not fit the rest of a config, and keys of ours that nobody reads.

Detectron2 has three forms of ROI heads, and a head of this package exists in each that makes sense:

    form      class               boxes are embedded by              our names
    FPN       StandardROIHeads    MODEL.ROI_BOX_HEAD (FPN, DC5, C5)  <Mechanism>ROIHeads
    C4        Res5ROIHeads        res5, on the one map res4          Res5<Mechanism>ROIHeads
    Cascade   CascadeROIHeads     one box head per stage             Cascade<Mechanism>ROIHeads

A head in another form is built wrongly or silently: what it is and what would fit is asked of
Detectron2's registry.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY
from detectron2.modeling.anchor_generator import (
    ANCHOR_GENERATOR_REGISTRY,
    RotatedAnchorGenerator,
)
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator.rrpn import RRPN
from detectron2.modeling.roi_heads import (
    ROI_BOX_HEAD_REGISTRY,
    CascadeROIHeads,
    Res5ROIHeads,
    RROIHeads,
    StandardROIHeads,
)

from ..config.defaults import NODES, node
from ..config.problems import Problem
from ..modeling import ContextRes5ROIHeads, RelationBoxHead
from ..modeling.registered import roi_heads_class, rpn_class
from ..modeling.roi_heads.heads import Relational

# Form -> the beginning of its names.
PREFIXES = {"FPN": "", "C4": "Res5", "Cascade": "Cascade"}
# Node of keys -> the middle of the names of the heads that are proposed for it.
MECHANISMS = {
    "RELATION": "Relation",
    "SGRN": "SGRN",
    "REASONING_RCNN": "ReasoningRCNN",
    "REASONING": "Reasoning",
    "REGION_FEATURES": "DuplicateRemoval",
    "DUPLICATE_REMOVAL": "DuplicateRemoval",
}


def form_of(heads: type) -> str | None:
    """Key of `PREFIXES`; None for a class that derives from none of Detectron2's three."""
    for form, base in (
        ("Cascade", CascadeROIHeads),
        ("C4", Res5ROIHeads),
        ("FPN", StandardROIHeads),
    ):
        if issubclass(heads, base):
            return form
    return None


def is_relational(heads: type) -> bool:
    """Whether the heads are of this package, or derive from such."""
    return issubclass(heads, (Relational, ContextRes5ROIHeads))


def in_form(name: str, form: str) -> str | None:
    """The registered heads of the same mechanism in another form, None if there are none."""
    other = PREFIXES[form] + re.sub("^(Res5|Cascade|ContextRes5)", "", name)
    other = "StandardROIHeads" if other == "ROIHeads" else other  # without a mechanism
    return other if other in ROI_HEADS_REGISTRY else None


def reads(cfg: CfgNode, heads: type | None) -> set[str]:
    """Which nodes of `NODES` a class of ROI heads reads, if it says so."""
    return heads.reads(cfg) if hasattr(heads, "reads") else set()


def head_names(config_file: str, opts: Sequence[Any]) -> list[str]:
    """What a merged config does not show: the ROI heads that its YAML is made for.

    These are Cascade heads in any of the files that it is based on. And an override of
    `MODEL.ROI_HEADS.NAME` alone does not make a Cascade R-CNN of another config, so that then the
    last name in the files counts as well; who means it overrides CLS_AGNOSTIC_BBOX_REG too.

    Args:
        config_file: a YAML that can be merged; "" for none.
        opts: keys and values.
    """
    names = []

    class Noted(CfgNode):
        @classmethod
        def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
            loaded = super().load_yaml_with_base(filename, allow_unsafe)  # its bases come here too
            names.append((loaded.get("MODEL") or {}).get("ROI_HEADS", {}).get("NAME"))
            return loaded

    if config_file:
        Noted.load_yaml_with_base(config_file)
    names = [name for name in names if name and name in ROI_HEADS_REGISTRY]
    made_for = [n for n in names if form_of(ROI_HEADS_REGISTRY.get(n)) == "Cascade"]
    keys = opts[::2]
    if "MODEL.ROI_HEADS.NAME" in keys and "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG" not in keys:
        made_for += names[-1:]
    return made_for


def form_problems(cfg: CfgNode, earlier_heads: Sequence[str] = ()) -> Iterator[Problem]:
    """ROI heads of this package where they do not fit.

    Args:
        cfg: the config.
        earlier_heads: see `head_names`.
    """
    name, arch = cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.META_ARCHITECTURE
    if name not in ROI_HEADS_REGISTRY or arch not in META_ARCH_REGISTRY:
        return  # said elsewhere
    heads = ROI_HEADS_REGISTRY.get(name)
    if not is_relational(heads):
        if heads.__module__.startswith("detectron2.") and roi_heads_class(cfg) is not None:
            yield from _wrong_form(cfg, form_of(heads)) if form_of(heads) else ()
            yield from _half_rotated(cfg, heads)
        return
    if roi_heads_class(cfg) is None:
        yield Problem(
            f"MODEL.META_ARCHITECTURE {arch} has no ROI heads, so MODEL.ROI_HEADS.NAME {name} "
            "would not be built: take the config of a Faster R-CNN, whose "
            "MODEL.META_ARCHITECTURE is GeneralizedRCNN."
        )
        return
    other_stages = list(_other_stages(name, form_of(heads), earlier_heads))
    yield from other_stages or _wrong_form(cfg, form_of(heads))
    yield from _rotated(cfg)


def unread_problems(cfg: CfgNode) -> Iterator[Problem]:
    """Keys of ours that are not the defaults, and that nothing in this model reads."""
    name, arch = cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.META_ARCHITECTURE
    if name in ROI_HEADS_REGISTRY and arch in META_ARCH_REGISTRY:
        yield from _not_told(cfg, ROI_HEADS_REGISTRY.get(name))
        yield from _unread(cfg)


def _rotated(cfg: CfgNode) -> Iterator[Problem]:
    generator, anchors = cfg.MODEL.PROPOSAL_GENERATOR.NAME, cfg.MODEL.ANCHOR_GENERATOR.NAME
    for key, name, registry, base, upright in (
        ("PROPOSAL_GENERATOR", generator, PROPOSAL_GENERATOR_REGISTRY, RRPN, "RPN"),
        ("ANCHOR_GENERATOR", anchors, ANCHOR_GENERATOR_REGISTRY, RotatedAnchorGenerator,
         "DefaultAnchorGenerator"),
    ):  # fmt: skip
        if name in registry and issubclass(registry.get(name), base):
            yield Problem(
                f"MODEL.{key}.NAME {name} gives rotated boxes, and MODEL.ROI_HEADS.NAME "
                f"{cfg.MODEL.ROI_HEADS.NAME} relates upright ones: set MODEL.{key}.NAME {upright}, "
                "or MODEL.ROI_HEADS.NAME RROIHeads, which relates nothing."
            )


def _half_rotated(cfg: CfgNode, heads: type) -> Iterator[Problem]:
    """Detectron2's own heads: anchors, proposals and heads are rotated, or none of them."""
    generator, anchors = cfg.MODEL.PROPOSAL_GENERATOR.NAME, cfg.MODEL.ANCHOR_GENERATOR.NAME
    rpn = rpn_class(cfg)
    if rpn is None or anchors not in ANCHOR_GENERATOR_REGISTRY:
        return
    rotated_anchors = issubclass(ANCHOR_GENERATOR_REGISTRY.get(anchors), RotatedAnchorGenerator)
    if len({rotated_anchors, issubclass(rpn, RRPN), issubclass(heads, RROIHeads)}) > 1:
        yield Problem(
            f"MODEL.ANCHOR_GENERATOR.NAME {anchors}, MODEL.PROPOSAL_GENERATOR.NAME {generator} and "
            f"MODEL.ROI_HEADS.NAME {cfg.MODEL.ROI_HEADS.NAME} must all be for rotated boxes "
            "(RotatedAnchorGenerator, RRPN, RROIHeads), or none of them."
        )


def _wrong_form(cfg: CfgNode, form: str | None) -> Iterator[Problem]:
    """Heads that embed boxes in another way than the rest of the config is made for."""
    name, box_head = cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_BOX_HEAD
    maps = list(cfg.MODEL.ROI_HEADS.IN_FEATURES)
    has_box_head = bool(box_head.NAME or box_head.NUM_FC or box_head.NUM_CONV)
    if form == "C4" and (len(maps) != 1 or re.fullmatch("res5|p[0-9]+", maps[0])):
        yield Problem(
            f"MODEL.ROI_HEADS.NAME {name} puts res5 on the one map res4 of a C4 model, and "
            f"MODEL.ROI_HEADS.IN_FEATURES is {maps}: {_proposal(name, 'FPN')}."
        )
    elif form != "C4" and not has_box_head:
        yield Problem(
            f"MODEL.ROI_HEADS.NAME {name} embeds boxes by MODEL.ROI_BOX_HEAD, which is empty "
            f"(NAME '', NUM_FC 0) as in a C4 model: {_proposal(name, 'C4')}, or give it a head "
            "(NAME FastRCNNConvFCHead, NUM_FC 2)."
        )
    elif form == "C4" and cfg.MODEL.KEYPOINT_ON:
        yield Problem(
            f"MODEL.KEYPOINT_ON is True, and MODEL.ROI_HEADS.NAME {name} has no keypoint branch, "
            "like all C4 heads of Detectron2: set it False, or take an FPN config."
        )
    elif form == "Cascade" and not box_head.CLS_AGNOSTIC_BBOX_REG:
        yield Problem(
            f"MODEL.ROI_HEADS.NAME {name} moves every box once per stage, for all classes: set "
            "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG True, got False."
        )


def _proposal(name: str, form: str) -> str:
    other = in_form(name, form)
    if other is None:
        return f"there are no heads of this kind for it, {PREFIXES[form]}... is not registered"
    return f"set MODEL.ROI_HEADS.NAME {other}"


def _other_stages(name: str, form: str | None, earlier: Sequence[str]) -> Iterator[Problem]:
    """A Cascade YAML whose heads were overridden by heads of one stage, or the reverse."""
    for made_for in earlier[::-1]:
        was = form_of(ROI_HEADS_REGISTRY.get(made_for))
        if was == form or "Cascade" not in (was, form) or was is None:
            continue
        other = in_form(name, was)
        remedy = f"set MODEL.ROI_HEADS.NAME {other}" if other else "take a config of that form"
        if form == "Cascade":
            remedy += ", or for a Cascade R-CNN set MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG True"
        yield Problem(
            f"This is a config of {made_for}, and MODEL.ROI_HEADS.NAME {name} has "
            f"{'several stages' if form == 'Cascade' else 'one stage'}: weights of its box heads "
            f"would be lost; {remedy}."
        )
        return


def _not_told(cfg: CfgNode, heads: type) -> Iterator[Problem]:
    """Relation modules in the box head of heads that do not tell it the regions."""
    box_head = cfg.MODEL.ROI_BOX_HEAD.NAME
    if roi_heads_class(cfg) is None or box_head not in ROI_BOX_HEAD_REGISTRY:
        return
    relates = ROI_BOX_HEAD_REGISTRY.get(box_head)
    if isinstance(relates, type) and issubclass(relates, RelationBoxHead):
        if not issubclass(heads, Relational):
            other = _reader("RELATION", form_of(heads))
            yield Problem(
                f"MODEL.ROI_BOX_HEAD.NAME {box_head} must be told the regions, and "
                f"MODEL.ROI_HEADS.NAME {cfg.MODEL.ROI_HEADS.NAME} does not do that: set "
                f"MODEL.ROI_HEADS.NAME {other}."
            )


def _reader(key: str, form: str | None) -> str:
    """Registered heads that read a node, in a form where they exist, else in FPN's."""
    return f"{PREFIXES.get(form or 'FPN', '')}{MECHANISMS[key]}ROIHeads"


def _unread(cfg: CfgNode) -> Iterator[Problem]:
    """Keys of ours that are not the defaults, and that nothing in this model reads."""
    heads = roi_heads_class(cfg)
    for key in MECHANISMS:
        changes = _changes(cfg, key)
        if not changes or key in reads(cfg, heads):
            continue
        other = _reader(key, form_of(heads) if heads else None)
        who = f"MODEL.ROI_HEADS.NAME {cfg.MODEL.ROI_HEADS.NAME}"
        if heads is None:
            who = f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE}"
        remedy = f"set MODEL.ROI_HEADS.NAME {other}, or " if heads else ""
        yield Problem(
            f"MODEL.{key} has {', '.join(changes)}, which {who} does not read: {remedy}leave "
            f"{'it' if len(changes) == 1 else 'them'} out."
        )


def _changes(cfg: CfgNode, name: str) -> list[str]:
    """`KEY value` of every key of a node that differs from its default."""
    ours, defaults = node(cfg, name), NODES[name].defaults()
    values = {key: attrgetter(key) for key in NODES[name].types()}
    return [f"{key} {of(ours)}" for key, of in values.items() if of(ours) != of(defaults)]
