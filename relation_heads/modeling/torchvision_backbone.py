"""Any classification network of torchvision as a backbone, with weights from a file.

    MODEL:
      WEIGHTS: resnet18-f37072fd.pth
      BACKBONE:
        NAME: build_torchvision_fpn_backbone
        FREEZE_AT: 2
      TORCHVISION:
        NAME: resnet18
      PIXEL_MEAN: [123.675, 116.28, 103.53]
      PIXEL_STD: [58.395, 57.12, 57.375]
    INPUT:
      FORMAT: RGB

The file is a state dict as torchvision has it; this package's trainer and tools put it in its place
(`place_weights`). Detectron2's own tools do so for `MODEL.WEIGHTS
"resnet18-f37072fd.pth?matching_heuristics=True"`. Nothing is downloaded.

Which layers give the maps is seen, not listed: an image runs through the network once, and those
parts are kept that run one after the other and whose maps have a stride of 32 or less.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torchvision
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.fpn import FPN
from torch import Tensor, nn
from torchvision.models import get_model, list_models

from ..config.defaults import node
from ..config.problems import did_you_mean
from ..layers.arguments import first_few
from .staged_backbone import STAGES, Part, StagedBackbone, needed_parts, with_fpn

logger = logging.getLogger(__name__)
STRIDES = (1, 2, 4, 8, 16, 32)
PROBE = (64, 96)  # height and width in pixels; two sides, so that channels are not taken for one
_COUNTER = "num_batches_tracked"  # of a batch norm; not in older files, and frozen ones ignore it


class TorchvisionBackbone(StagedBackbone):
    """See `StagedBackbone`. Its modules have torchvision's names, below `net`.

    Batch norms are frozen: they are affine maps that nothing changes. What comes after the last map
    that is asked for, such as the classifier, is left out.
    """

    def __init__(
        self, name: str, *, out_features: Sequence[str] = STAGES[1:], freeze_at: int = 0
    ) -> None:
        """
        Args:
            name: of a classification network, such as "resnet18"; its weights are random.
            out_features: some of "res2" to "res5".
            freeze_at: number of stages that are not trained, as in Detectron2's ResNet. 1 is all
                up to stride 2, 2 is res2 as well, ..., 5 is everything.

        Raises:
            ValueError: a network or a feature that does not exist, or no feature.
        """
        super().__init__()
        require_network(name)
        self.name = name
        net = get_model(name, weights=None)
        parts = find_parts(net)
        if not any(part.stage in STAGES[1:] for part in parts):
            raise ValueError(
                f"MODEL.TORCHVISION.NAME {name!r} has no maps of strides 4 to 32 that come one "
                "after the other; resnet50, regnet_y_400mf, mobilenet_v3_large, efficientnet_b0, "
                "convnext_tiny and vgg16, for example, have them."
            )
        parts = needed_parts(
            parts, out_features, f"MODEL.TORCHVISION.NAME {name!r}", "MODEL.TORCHVISION"
        )
        kept = {part.name for part in parts}
        for other in [other for other, _ in _candidates(net) if other not in kept]:
            parent, _, leaf = other.rpartition(".")
            delattr(net.get_submodule(parent), leaf)
        self.net = FrozenBatchNorm2d.convert_frozen_batchnorm(net)
        parts = [part._replace(name=f"net.{part.name}") for part in parts]
        self.set_parts(parts, out_features, freeze_at)
        self.train()


def require_network(name: str) -> None:
    """Raises a ValueError if torchvision has no classification network of this name."""
    known = list_models(module=torchvision.models)  # classification alone
    if name not in known:
        raise ValueError(
            f"MODEL.TORCHVISION.NAME {name!r} is not a classification network of torchvision "
            f"{torchvision.__version__}{did_you_mean(name, known)}"
        )


def find_parts(net: nn.Module) -> list[Part]:
    """The parts of a network that run one after the other from the image on, while their outputs
    are maps (B, C, H / stride, W / stride). A part is a child, or the child of a `Sequential`.

    Args:
        net: takes (B, 3, H, W); is in evaluation mode afterwards.
    """
    ran: list[tuple[str, Any, Any]] = []

    def watch(name: str, module: nn.Module) -> Any:
        return module.register_forward_hook(
            lambda _, inputs, output: ran.append((name, inputs[0], output))
        )

    hooks = [watch(name, module) for name, module in _candidates(net)]
    x = torch.zeros(1, 3, *PROBE)
    try:
        with torch.no_grad():
            net.eval()(x)
    except (AssertionError, RuntimeError, ValueError):
        pass  # it takes images of one size, or larger ones: what ran counts
    for hook in hooks:
        hook.remove()
    parts: list[Part] = []
    for name, before, after in ran:
        stride = _stride(after)
        if before is not x or stride is None:
            break
        parts.append(Part(name, stride, after.shape[1]))
        x = after
    return parts


def _candidates(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in net.named_children():
        if isinstance(child, nn.Sequential):
            yield from ((f"{name}.{k}", part) for k, part in child.named_children())
        else:
            yield name, child


def _stride(x: Any) -> int | None:
    if not isinstance(x, Tensor) or x.dim() != 4:
        return None
    sizes = {(PROBE[0] // stride, PROBE[1] // stride): stride for stride in STRIDES}
    return sizes.get((x.shape[2], x.shape[3]))


def place_weights(model: nn.Module, weights: dict[str, Any], file: str) -> dict[str, Any]:
    """A state dict of torchvision under the names of the network in a detector.

    Args:
        model: any model.
        weights: what a file has; of a checkpoint of the model it is left as it is, and so is all
            where the model has no `TorchvisionBackbone`.
        file: where it was read, for the error.

    Raises:
        ValueError: the network of the model has tensors that `weights` lacks or has in another
            shape.
    """
    own = model.state_dict()
    backbones = [(n, m) for n, m in model.named_modules() if isinstance(m, TorchvisionBackbone)]
    if not backbones or own.keys() & weights.keys():
        return weights
    name, backbone = backbones[0]
    prefix = f"{name}.net." if name else "net."
    wanted = {k.removeprefix(prefix): v for k, v in own.items() if k.startswith(prefix)}
    needed = {k: v for k, v in wanted.items() if not k.endswith(_COUNTER)}
    weights = {_name_today(k): v for k, v in weights.items()}
    wrong = [k for k, v in needed.items() if k not in weights or weights[k].shape != v.shape]
    if wrong:
        raise ValueError(
            f"{file} lacks {len(wrong)} of the {len(needed)} tensors of MODEL.TORCHVISION.NAME "
            f"{backbone.name}, or has them in another shape: {first_few(wrong)}. MODEL.WEIGHTS is "
            "torchvision's file for this network, or a checkpoint of this detector."
        )
    placed = OrderedDict((prefix + k, weights[k]) for k in wanted if k in weights)
    placed._metadata = own._metadata  # type: ignore[attr-defined]  # MNASNet asks for its version
    return placed


def _name_today(key: str) -> str:
    """Without what a parallel training puts before it; the names in the files of DenseNets have one
    dot more than the modules, which torchvision's own download mends."""
    key = key.removeprefix("module.")
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key)


@BACKBONE_REGISTRY.register()
def build_torchvision_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TorchvisionBackbone:
    """`MODEL.BACKBONE.NAME build_torchvision_backbone`: reads `MODEL.TORCHVISION` and
    `MODEL.BACKBONE.FREEZE_AT`."""
    return _build(cfg, node(cfg, "TORCHVISION").OUT_FEATURES)


@BACKBONE_REGISTRY.register()
def build_torchvision_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """`MODEL.BACKBONE.NAME build_torchvision_fpn_backbone`: over `MODEL.FPN.IN_FEATURES`."""
    return with_fpn(cfg, _build(cfg, cfg.MODEL.FPN.IN_FEATURES))


def _build(cfg: CfgNode, out_features: Sequence[str]) -> TorchvisionBackbone:
    if cfg.INPUT.FORMAT != "RGB" or max(cfg.MODEL.PIXEL_STD) <= 1:
        logger.warning(
            "torchvision's weights want INPUT.FORMAT RGB, MODEL.PIXEL_MEAN [123.675, 116.28, "
            "103.53] and MODEL.PIXEL_STD [58.395, 57.12, 57.375], got %s, %s and %s.",
            cfg.INPUT.FORMAT,
            list(cfg.MODEL.PIXEL_MEAN),
            list(cfg.MODEL.PIXEL_STD),
        )
    return TorchvisionBackbone(
        node(cfg, "TORCHVISION").NAME,
        out_features=out_features,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
