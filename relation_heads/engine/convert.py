"""Weights of other code in the names and order of this code; nothing is left out silently.

**mmdet**: Faster and Mask R-CNN on a ResNet or ResNeXt with FPN, also with GC (`context_block`) or
non-local blocks (`nonlocal_block`) after conv3, of mmdet 1 (and xvjiarui/GCNet) and of mmdet 2 and
later. Their heads are called `bbox_head` and `roi_head.bbox_head`, and differ in more than that:

    mmdet 1             class 0 is the background, K + 1 boxes and masks
    mmdet 2, Detectron2 class K is the background, K boxes and masks

The K classes keep their order. Box deltas need no change: mmdet's `target_stds` 0.1, 0.1, 0.2, 0.2
multiply what Detectron2's BBOX_REG_WEIGHTS 10, 10, 5, 5 divide. A box of mmdet 1 ends with the
pixel x2, so that its width is x2 - x1 + 1; with the edges x1 and x2 + 1 it is a box of Detectron2,
and deltas decode to the same box. Its anchors are in the middle of a cell and its RoIAlign is not
moved by half a pixel: `tools/convert_weights.py` has the keys for both. Non-local blocks (embedded
Gaussian, d inner channels) multiply theta^T phi by d^-0.5 in mmdet 2, as ours do, and by d^0.5 in
xvjiarui/GCNet: a bug, which its weights were trained with. There theta is multiplied by d, and the
blocks do the same. Copies of mmdet 1 have the one or the other, and their names are equal: who
converts has to say which.

**GloRe**: the units of the video networks of facebookresearch/GloRe (`conv4.B03_extra` becomes
`res4.2.after_add.glore`), without the rest of them: kernels over time have no counterpart.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Theta = Literal["divided", "multiplied"]  # theta^T phi, by the root of d

IGNORED = "num_batches_tracked"  # of batch norms; with a fixed momentum nothing reads it
_FC_CLS, _FC_REG, _MASKS = "bbox_head.fc_cls", "bbox_head.fc_reg", "mask_head.conv_logits"
_MAX_LISTED = 4

_AFFINE = r"(weight|bias)"
_NORM = r"(weight|bias|running_mean|running_var)"
_BLOCK = r"backbone\.layer([1-4])\.(\d+)\."
_OUR_BLOCK = "backbone.bottom_up.res<1+1>.<2>."
_RPN, _OUR_RPN = r"rpn_head\.rpn_", "proposal_generator.rpn_head."
_BOX, _MASK = r"(?:roi_head\.)?bbox_head\.", r"(?:roi_head\.)?mask_head\."
# A name of mmdet -> ours; <1> is the first group, <1+2> the same plus 2.
_RULES = {
    r"backbone\.conv1\.weight": "backbone.bottom_up.stem.conv1.weight",
    rf"backbone\.bn1\.{_NORM}": "backbone.bottom_up.stem.conv1.norm.<1>",
    rf"{_BLOCK}conv([123])\.weight": f"{_OUR_BLOCK}conv<3>.weight",
    rf"{_BLOCK}bn([123])\.{_NORM}": f"{_OUR_BLOCK}conv<3>.norm.<4>",
    rf"{_BLOCK}downsample\.0\.weight": f"{_OUR_BLOCK}shortcut.weight",
    rf"{_BLOCK}downsample\.1\.{_NORM}": f"{_OUR_BLOCK}shortcut.norm.<3>",
    rf"{_BLOCK}context_block\.(conv_mask|channel_(?:add|mul)_conv\.[013])\.{_AFFINE}": (
        f"{_OUR_BLOCK}after_conv3.gc.<3>.<4>"
    ),
    rf"{_BLOCK}nonlocal_block\.(g|theta|phi|conv_out)\.conv\.{_AFFINE}": (
        f"{_OUR_BLOCK}after_conv3.nl.<3>.<4>"
    ),
    rf"neck\.lateral_convs\.([0-3])\.conv\.{_AFFINE}": "backbone.fpn_lateral<1+2>.<2>",
    rf"neck\.lateral_convs\.([0-3])\.bn\.{_NORM}": "backbone.fpn_lateral<1+2>.norm.<2>",
    rf"neck\.fpn_convs\.([0-3])\.conv\.{_AFFINE}": "backbone.fpn_output<1+2>.<2>",
    rf"neck\.fpn_convs\.([0-3])\.bn\.{_NORM}": "backbone.fpn_output<1+2>.norm.<2>",
    rf"{_RPN}conv\.{_AFFINE}": f"{_OUR_RPN}conv.<1>",
    rf"{_RPN}cls\.{_AFFINE}": f"{_OUR_RPN}objectness_logits.<1>",
    rf"{_RPN}reg\.{_AFFINE}": f"{_OUR_RPN}anchor_deltas.<1>",
    rf"{_BOX}shared_convs\.(\d+)\.conv\.{_AFFINE}": "roi_heads.box_head.conv<1+1>.<2>",
    rf"{_BOX}shared_convs\.(\d+)\.bn\.{_NORM}": "roi_heads.box_head.conv<1+1>.norm.<2>",
    rf"{_BOX}shared_fcs\.(\d+)\.{_AFFINE}": "roi_heads.box_head.fc<1+1>.<2>",
    rf"{_BOX}fc_cls\.{_AFFINE}": "roi_heads.box_predictor.cls_score.<1>",
    rf"{_BOX}fc_reg\.{_AFFINE}": "roi_heads.box_predictor.bbox_pred.<1>",
    rf"{_MASK}convs\.(\d+)\.conv\.{_AFFINE}": "roi_heads.mask_head.mask_fcn<1+1>.<2>",
    rf"{_MASK}convs\.(\d+)\.bn\.{_NORM}": "roi_heads.mask_head.mask_fcn<1+1>.norm.<2>",
    rf"{_MASK}upsample\.{_AFFINE}": "roi_heads.mask_head.deconv.<1>",
    rf"{_MASK}conv_logits\.{_AFFINE}": "roi_heads.mask_head.predictor.<1>",
}
_THETA = re.compile(r"backbone\.layer\d\.\d+\.nonlocal_block\.theta\.conv\.(weight|bias)")
# Layers whose input is that of a plugin.
_PLUGIN_INPUT = re.compile(
    r"(backbone\.layer\d\.\d+)\.(context_block|nonlocal_block)\."
    r"(?:conv_mask|channel_(?:add|mul)_conv\.0|g\.conv)\.weight"
)

_OPTIONAL = f"blocker.{IGNORED}"  # PyTorch before 0.4.1 has none
_UNIT_TENSORS = (
    *(f"{layer}.{kind}" for layer in ("conv_state", "conv_proj") for kind in ("weight", "bias")),
    *("gcn.conv1.weight", "gcn.conv1.bias", "gcn.conv2.weight", "conv_extend.weight"),
    *(f"blocker.{kind}" for kind in ("weight", "bias", "running_mean", "running_var")),
    _OPTIONAL,
)
_UNIT = re.compile(rf"conv([2-5])\.B(\d+)_extra\.({'|'.join(map(re.escape, _UNIT_TENSORS))})")
_VIDEO_NETWORK = re.compile(
    r"(conv1\.(conv|bn)|conv[2-5]\.B\d+\.conv_(m[123]|w1)\.(bn|conv)|tail\.bn|classifier)\.[a-z_]+"
)


def mmdet_to_detectron2(
    state: Mapping[str, Tensor], theta: Theta | None = None
) -> dict[str, Tensor]:
    """A detector of mmdet in the names and class order of Detectron2.

    Args:
        state: `state_dict` of the detector.
        theta: whether the code that trained its non-local blocks "divided" theta^T phi by the root
            of d or "multiplied" it (xvjiarui/GCNet). None: there are no such blocks, or they are of
            mmdet 2 or later, which divides.

    Returns:
        all its tensors but those called IGNORED.

    Raises:
        ValueError: it is another kind of detector, has a tensor that is not known here, or shapes
            that contradict each other; or non-local blocks of mmdet 1 and no `theta`.
    """
    names = _our_names(state)
    num_classes = _num_classes(state)
    _check_plugins(state)
    background_first = is_mmdet_1(state)
    if background_first and theta is None and any(map(_THETA.fullmatch, state)):
        raise ValueError(
            "The checkpoint has non-local blocks of mmdet 1, and the names do not tell whether its "
            "code divided theta^T phi by the root of its channels, as mmdet 1.0 and later do, or "
            "multiplied it, as xvjiarui/GCNet does: set --theta to divided or multiplied."
        )
    weights = {}
    for key, name in names.items():
        value = state[key]
        if theta == "multiplied" and _THETA.fullmatch(key):
            value = value * len(value)  # d: times the root of d here, for ours divides by it
        if background_first:
            if f"{_FC_CLS}." in key:
                value = torch.cat([value[1:], value[:1]])
            elif f"{_FC_REG}." in key and len(value) == 4 * (num_classes + 1):
                value = value[4:]
            elif f"{_MASKS}." in key and len(value) == num_classes + 1:
                value = value[1:]
        weights[name] = value
    return weights


def is_mmdet_1(state: Mapping[str, Tensor]) -> bool:
    """Whether the heads are those of mmdet 1, with the background as class 0.

    Raises:
        ValueError: there is no box head, or two.
    """
    found = [prefix for prefix in ("", "roi_head.") if f"{prefix}{_FC_CLS}.weight" in state]
    if len(found) != 1:
        raise ValueError(
            f"A Faster or Mask R-CNN of mmdet has {_FC_CLS}.weight (mmdet 1) or else roi_head."
            f"{_FC_CLS}.weight (mmdet 2 and later), here {'are both' if found else 'is neither'}."
        )
    return found == [""]


def glore_3d_to_2d(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The GloRe units of a released video network, as units for images.

    Args:
        state: `state_dict` of the network.

    Returns:
        the tensors of the units, with names that end those of a ResNet with units, from `res3` or
        `res4` on; blocks count from 0 where the released code counts from 1.

    Raises:
        ValueError: there is no unit, a unit is not complete, a kernel is not 1 x 1 x 1, or there is
            a tensor that neither a unit nor the rest of such a network has.
    """
    left_out_of_glore_3d(state)  # raises if a tensor is not known
    units: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, value in state.items():
        match = _UNIT.fullmatch(key)
        if match:
            stage, block, name = match.groups()
            units[f"res{stage}.{int(block) - 1}.after_add.glore."][name] = value
    if not units:
        raise ValueError(
            "The network has no GloRe unit, no conv4.B01_extra.conv_state or the like."
        )
    weights = {}
    for prefix, unit in units.items():
        _check_unit(unit, prefix)
        for name, value in unit.items():
            weights[prefix + name] = value[:, :, 0] if value.dim() == 5 else value
    return weights


def left_out_of_glore_3d(state: Mapping[str, Tensor]) -> list[str]:
    """The tensors that `glore_3d_to_2d` leaves out: all of the video network but its units.

    Raises:
        ValueError: a tensor belongs to neither.
    """
    rest = [key for key in state if not _UNIT.fullmatch(key)]
    _refuse("a 3D ResNet with GloRe units", [k for k in rest if not _VIDEO_NETWORK.fullmatch(k)])
    return rest


# ---- mmdet: names, classes, blocks ----


def _our_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """mmdet's name -> ours, without those called IGNORED."""
    names, unknown = {}, []
    for key in state:
        if ".gen_attention_block." in key:
            raise ValueError(f"{key}: generalised attention has no counterpart here.")
        if key.endswith(f".{IGNORED}"):
            continue
        matches = ((re.fullmatch(pattern, key), template) for pattern, template in _RULES.items())
        name = next((_fill(template, match) for match, template in matches if match), None)
        if name is None:
            unknown.append(key)
        else:
            names[key] = name
    _refuse("a Faster or Mask R-CNN of mmdet on a ResNet with FPN", unknown)
    return names


def _fill(template: str, match: re.Match[str]) -> str:
    def group(reference: re.Match[str]) -> str:
        text, plus = match[int(reference[1])], reference[2]
        return str(int(text) + int(plus)) if plus else text

    return re.sub(r"<(\d)(?:\+(\d))?>", group, template)


def _refuse(what: str, unknown: list[str]) -> None:
    if unknown:
        more = len(unknown) - _MAX_LISTED
        raise ValueError(
            f"{len(unknown)} of the names are not those of {what}, and nothing is left out unsaid: "
            f"{', '.join(unknown[:_MAX_LISTED])}{f' and {more} more' if more > 0 else ''}."
        )


def _num_classes(state: Mapping[str, Tensor]) -> int:
    """K, if the shapes of all predictors agree."""
    first = is_mmdet_1(state)
    heads = "" if first else "roi_head."
    num_classes = len(state[f"{heads}{_FC_CLS}.weight"]) - 1
    rows = num_classes + first  # of boxes and masks, if every class has its own
    allowed = {
        f"{heads}{_FC_CLS}": {num_classes + 1},
        f"{heads}{_FC_REG}": {4, 4 * rows},
        f"{heads}{_MASKS}": {1, rows},
        "rpn_head.rpn_cls": {len(state.get("rpn_head.rpn_reg.weight", ())) // 4},
    }
    for layer, lengths in allowed.items():
        for key in (f"{layer}.weight", f"{layer}.bias"):
            if key in state and len(state[key]) not in lengths:
                raise ValueError(
                    f"{key} must have {' or '.join(map(str, sorted(lengths)))} rows, as "
                    f"{heads}{_FC_CLS} is for {num_classes} classes and the background and an RPN "
                    f"has one score per anchor, got {len(state[key])}."
                )
    return num_classes


def _check_plugins(state: Mapping[str, Tensor]) -> None:
    """Plugins have the width of conv3, and there is one in a place."""
    kinds: dict[str, str] = {}
    for key, value in state.items():
        match = _PLUGIN_INPUT.fullmatch(key)
        if not match:
            continue
        block, kind = match.groups()
        channels, expected = value.shape[1], len(state[f"{block}.conv3.weight"])
        if channels != expected:
            raise ValueError(
                f"{key} has {channels} channels where conv3 has {expected}: the plugin does not "
                "come after conv3, and the names do not tell where else."
            )
        if kinds.setdefault(block, kind) != kind:
            raise ValueError(
                f"{block} has a {kinds[block]} and a {kind}, and the names do not tell their order."
            )


# ---- GloRe ----


def _check_unit(unit: Mapping[str, Tensor], where: str) -> None:
    """A unit has the tensors of the released one, of the shapes that C and N give."""
    missing = [name for name in _UNIT_TENSORS if name not in unit and name != _OPTIONAL]
    if missing:
        raise ValueError(f"The unit {where} is not complete, it lacks {', '.join(missing)}.")
    n, c = unit["conv_proj.weight"].shape[:2]
    cube, states = (1, 1, 1), 2 * n
    weights = {
        "conv_state": (states, c, *cube),
        "conv_proj": (n, c, *cube),
        "gcn.conv1": (n, n, 1),
        "gcn.conv2": (states, states, 1),
        "conv_extend": (c, states, *cube),
        "blocker": (c,),
    }
    for name, value in unit.items():
        layer = name.rpartition(".")[0]
        shape = () if name == _OPTIONAL else weights[layer][: None if "weight" in name else 1]
        if value.shape != shape:
            raise ValueError(
                f"{name} of the unit {where} must be {shape} in a 3D unit of {c} channels and {n} "
                f"nodes, got {tuple(value.shape)}."
            )
