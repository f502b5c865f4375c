"""Counts of our layers and models beside published ones.

What is here is counted when it is printed; only the published numbers are written down, each with
where it is from: "table" is a table of the paper, "code" the layers of the released code.
Multiply-adds are of images of 224 x 224 pixels. The published ones of GloRe are of the released
order of its products, so that order is counted, and ours beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from detectron2.layers import Conv2d, ShapeSpec
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..config import find_config, get_cfg
from ..layers.blocks.global_context import GlobalContext, SqueezeExcitation
from ..layers.blocks.glore import GloRe, PreActivationGloRe
from ..layers.blocks.non_local import NonLocal
from ..modeling.glore_head import GloReFCNHead
from .counting import WithoutMemory, multiply_adds
from .detectors import build_shapes
from .preactivation_resnet import PublishedOrderGloRe, preactivation_resnet

R50, R200 = (3, 4, 6, 3), (3, 24, 36, 3)
# Name, blocks, units; millions of parameters and billions of multiply-adds in the table.
IMAGENET: tuple[tuple[str, tuple[int, ...], dict[str, int], str, str], ...] = (
    ("ResNet-50", R50, {}, "25.6", "4.0"),
    ("+ 3 GloRe in res4", R50, {"res4": 3}, "30.5", "5.2"),
    ("+ 2 in res3, 3 in res4", R50, {"res3": 2, "res4": 3}, "31.4", "6.0"),
    ("ResNet-200", R200, {}, "64.6", "15.0"),
    ("+ 3 GloRe in res4", R200, {"res4": 3}, "69.7", "16.2"),
    ("+ 2 in res3, 3 in res4", R200, {"res3": 2, "res4": 3}, "70.6", "16.9"),
)
# Name, suffix of the config, millions of parameters in the table.
COCO = (
    ("Mask R-CNN R50-FPN", "", "44.4"),
    ("+ one NL in res4", "_nl", "46.5"),
    ("+ SE in res3 to res5", "_se", "46.9"),
    ("+ GC r16 in res3 to res5", "_gc", "46.9"),
)
CLASSES_WITH_BACKGROUND = 81  # of boxes and masks in mmdetection v1
IMAGENET_NOTE = """
The paper rounds the GMAC of ResNet-50 down. On maps as small as these (14 x 14) our order of the
products takes more; on those of a detector `GloRe` takes half of the released order."""
COCO_NOTE = f"""
configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN*_1x.yaml with MODEL.RESNETS.NORM BN and outputs
for {CLASSES_WITH_BACKGROUND} classes of boxes and masks, as in mmdetection v1, where the background
has them too."""
BLOCKS: tuple[tuple[str, Callable[..., nn.Module], tuple[int, ...]], ...] = (
    ("GC r16", GlobalContext, (8753, 33889, 133313, 528769)),
    ("GC r4", partial(GlobalContext, ratio=1 / 4), (33473, 132481, 527105, 2102785)),
    ("SE r16", SqueezeExcitation, (8464, 33312, 132160, 526464)),
    ("NL C/2", NonLocal, (131712, 525568, 2099712, 8393728)),
)
CHANNELS = (256, 512, 1024, 2048)


def parameters(make: Callable[[], nn.Module], statistics: bool = False) -> int:
    """Of a new module, which takes no memory; with the running statistics of batch norms or
    without."""
    with torch.device("meta"):
        module = make()
    buffers = [b for b in module.buffers() if b.is_floating_point()] if statistics else []
    return sum(t.numel() for t in [*module.parameters(), *buffers])


def imagenet_multiply_adds(make: Callable[[], nn.Module]) -> int:
    """Of a network on one image of 224 x 224 pixels."""
    with torch.device("meta"):
        network = make().eval()
    mode = FakeTensorMode()
    shapes = WithoutMemory(network, mode)
    with mode, torch.no_grad():
        image = torch.empty(1, 3, 224, 224)
        return multiply_adds(lambda: shapes(image))[1].elsewhere


def mask_rcnn_parameters(suffix: str) -> int:
    """Of a config of ours with batch norms that are trained and outputs for the background."""
    cfg = get_cfg()
    name = f"COCO-InstanceSegmentation/mask_rcnn_R_50_FPN{suffix}_1x.yaml"
    cfg.merge_from_file(find_config(name))
    cfg.MODEL.RESNETS.NORM = "BN"
    model = build_shapes(cfg)
    heads = model.roi_heads
    with torch.device("meta"):
        heads.box_predictor.bbox_pred = nn.Linear(1024, 4 * CLASSES_WITH_BACKGROUND)
        heads.mask_head.predictor = Conv2d(256, CLASSES_WITH_BACKGROUND, 1)
    return sum(p.numel() for p in model.parameters())


def segmentation_head() -> nn.Module:
    """GloReFCNHead of the Cityscapes model."""
    shapes = {"res5": ShapeSpec(channels=2048, stride=8)}
    return GloReFCNHead(shapes, in_features=["res5"], num_classes=19)


def paper_tables() -> str:
    """All tables, as Markdown."""
    return "\n\n".join([_units(), _imagenet(), _coco(), _blocks()])


def _table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    columns = list(columns)
    lines = [f"**{title}**", "", "| | " + " | ".join(columns) + " |"]
    lines.append("|:--|" + "--:|" * len(columns))
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _units() -> str:
    code = "Chen et al. 2019, {} code"
    rows: list[tuple[str, Callable[[], nn.Module], int, str]] = []
    for channels, torch_count, mxnet_count in ((1024, 1641472, 1645056), (512, 411136, 412928)):
        size = f"C = {channels}, N = {channels // 4}"
        plain = partial(GloRe, channels=channels, norm=nn.BatchNorm2d)
        rows.append((f"GloRe, {size}", plain, torch_count, code.format("PyTorch")))
        inner = partial(PreActivationGloRe, channels=channels)
        rows.append((f"PreActivationGloRe, {size}", inner, mxnet_count, code.format("MXNet")))
    source = code.format("segmentation") + ", from copies"
    rows.append(("GloReFCNHead, 19 classes", segmentation_head, 11993875, source))
    return _table(
        "Parameters of units",
        ["here", "published", "source"],
        ([name, f"{parameters(m):,}", f"{n:,}", source] for name, m, n, source in rows),
    )


def _imagenet() -> str:
    def row(name: str, blocks: tuple[int, ...], units: dict[str, int], *table: str) -> list[str]:
        network = partial(preactivation_resnet, blocks, units)
        orders = (PublishedOrderGloRe, PreActivationGloRe)
        counts = [imagenet_multiply_adds(partial(network, unit=u)) / 1e9 for u in orders]
        sizes = [parameters(network, statistics) / 1e6 for statistics in (False, True)]
        here = [f"{number:.2f}" for number in (*sizes, *counts)]
        return [name, *here[:2], table[0], *here[2:], table[1]]

    columns = ["M parameters", "with norm statistics", "published"]
    columns += ["GMAC in the released order", "in ours", "published"]
    title = "ImageNet, 224 x 224 pixels (Chen et al. 2019, table)"
    return _table(title, columns, (row(*entry) for entry in IMAGENET)) + "\n" + IMAGENET_NOTE


def _coco() -> str:
    rows = [[n, f"{mask_rcnn_parameters(s) / 1e6:.3f}", published] for n, s, published in COCO]
    columns = ["M parameters here", "published"]
    return _table("COCO (Cao et al. 2019, table)", columns, rows) + "\n" + COCO_NOTE


def _blocks() -> str:
    rows = []
    for name, layer, counts in BLOCKS:
        here = [parameters(partial(layer, channels=c)) for c in CHANNELS]
        pairs = zip(here, counts, strict=True)
        rows.append([name, *(f"{ours:,} / {theirs:,}" for ours, theirs in pairs)])
    columns = [f"C = {c}" for c in CHANNELS]
    published = "GC, NL: code of Cao et al. 2019; SE: Hu et al. 2018"
    return _table(f"Parameters of a block: here / published ({published})", columns, rows)
