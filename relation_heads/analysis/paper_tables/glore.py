"""Chen et al., CVPR 2019: units, ImageNet, the segmentation head, and a run on CUB-200."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import torchvision
from detectron2.layers import ShapeSpec
from torch import nn

from ...layers.blocks.global_context import SqueezeExcitation
from ...layers.blocks.glore import GloRe, PreActivationGloRe
from ...layers.blocks.non_local import NonLocal
from ...modeling.glore_head import GloReFCNHead
from .counts import IMAGE, parameters, products
from .preactivation_resnet import PublishedOrderGloRe, preactivation_resnet
from .rows import G, M, Row, Table

R50, R200 = (3, 4, 6, 3), (3, 24, 36, 3)
UNITS: dict[str, dict[str, int]] = {
    "": {},
    " + 3 in res4": {"res4": 3},
    " + 2 in res3, 3 in res4": {"res3": 2, "res4": 3},
}
WITHOUT_TIMM = "timm is not installed (pip install 'relation_heads[tables]')"
MAPS = {"res3": (1, 512, 28, 28), "res4": (1, 1024, 14, 14)}
PARAMETERS, PRODUCTS = "M parameters", "G multiply-adds"
TWO_THREE = " + 2 in res3, 3 in res4"
NOTE = """\
Ours: 224 x 224 pixels, products in the released order (our order takes half of it on large maps).
ResNeXt and DPN are timm's; their units are on 512 and 1024 channels with N = C / 4, since the paper
does not say which N they have."""


def _timm(name: str) -> Callable[[], nn.Module] | None:
    """Makes a network of timm; None if that is not installed."""
    if importlib.util.find_spec("timm") is None:
        return None
    import timm

    return partial(timm.create_model, name)


# Network -> what makes it; form -> GFLOPs, millions of parameters in the table.
NETWORKS: dict[str, tuple[Callable[[], nn.Module] | None, dict[str, tuple[str, str]]]] = {
    "ResNet-50": (
        partial(preactivation_resnet, R50),
        {"": ("4.0", "25.6"), " + 3 in res4": ("5.2", "30.5"), TWO_THREE: ("6.0", "31.4")},
    ),
    "SE-ResNet-50": (
        partial(preactivation_resnet, R50, squeeze=SqueezeExcitation),
        {"": ("4.0", "28.1"), " + 3 in res4": ("5.2", "33.0")},
    ),
    "ResNet-200": (
        partial(preactivation_resnet, R200),
        {"": ("15.0", "64.6"), " + 3 in res4": ("16.2", "69.7"), TWO_THREE: ("16.9", "70.6")},
    ),
    "ResNeXt-101 (32 x 4)": (
        _timm("resnext101_32x4d"),
        {"": ("8.0", "44.3"), TWO_THREE: ("9.9", "50.3")},
    ),
    "DPN-98": (_timm("dpn98"), {"": ("11.7", "61.7"), TWO_THREE: ("13.6", "67.7")}),
    "DPN-131": (_timm("dpn131"), {"": ("16.0", "79.5"), TWO_THREE: ("17.9", "85.5")}),
}


def segmentation_head() -> nn.Module:
    """GloReFCNHead of the Cityscapes model."""
    shapes = {"res5": ShapeSpec(channels=2048, stride=8)}
    return GloReFCNHead(shapes, in_features=["res5"], num_classes=19)


class Count(NamedTuple):
    """Parameters without and with running statistics of norms; multiply-adds."""

    own: float
    with_statistics: float
    products: float

    def plus(self, other: Count, times: int) -> Count:
        """With so many of another."""
        return Count(*(a + times * b for a, b in zip(self, other, strict=True)))


@cache
def count(make: Callable[[], nn.Module], shape: tuple[int, ...] = IMAGE) -> Count:
    """Of a new module; in millions and billions."""
    sizes = (parameters(make, statistics) / M for statistics in (False, True))
    return Count(*sizes, products(make, shape) / G)


@cache
def unit(stage: str) -> Count:
    """Of one unit."""
    return count(partial(PublishedOrderGloRe, channels=MAPS[stage][1]), MAPS[stage])


def with_units(network: Count, form: str) -> Count:
    """A network and its units; their place within a stage changes no count."""
    for stage, times in UNITS[form].items():
        network = network.plus(unit(stage), times)
    return network


def tables() -> list[Table]:
    """Units, ImageNet, the comparison with non-local blocks, CUB-200."""
    return [_units(), _imagenet(), _non_local(), _cub()]


def _units() -> Table:
    rows = []
    for channels, plain, inner in ((1024, "1,641,472", "1,645,056"), (512, "411,136", "412,928")):
        size = f"C = {channels}, N = {channels // 4}"
        for name, published, make in (
            ("PyTorch", plain, partial(GloRe, channels=channels, norm=nn.BatchNorm2d)),
            ("MXNet", inner, partial(PreActivationGloRe, channels=channels)),
        ):
            rows.append(Row(f"GloRe ({name}), {size}", "parameters", published, parameters(make)))
    head = parameters(segmentation_head)
    rows.append(Row("FCN head, 19 classes", "parameters", "11,993,875", head))
    source = "layers of the released code; the head: of copies of it"
    return Table("GloRe units (Chen et al. 2019)", source, rows)


def _imagenet() -> Table:
    rows: list[Row] = []
    for network, (make, numbers) in NETWORKS.items():
        for form, published in numbers.items():
            if make is None:
                flops = Row(network + form, PRODUCTS, published[0], None, why=WITHOUT_TIMM)
                rows += [flops, replace(flops, unit=PARAMETERS, published=published[1])]
                continue
            stock = count(make)
            here = with_units(stock, form)
            base = float(numbers[""][0])
            base_line = (f"the table's {base} for the network without units", base - stock.products)
            statistics = ("running statistics of the norms", here.with_statistics - here.own)
            rows.append(
                Row(
                    network + form,
                    PRODUCTS,
                    published[0],
                    here.products,
                    [base_line] if form else [],
                )
            )
            rows.append(Row(network + form, PARAMETERS, published[1], here.own, [statistics]))
    return Table("GloRe (Chen et al. 2019), ImageNet", "slides", rows, NOTE)


def _non_local() -> Table:
    why = "the slides show a picture without numbers"
    rows = []
    for stage, shape in MAPS.items():
        for name, layer in (("NL", NonLocal), ("GloRe", PublishedOrderGloRe)):
            make = partial(layer, channels=shape[1])
            here = count(make, shape)
            text = f"{here.own:.2f} M parameters, {here.products:.2f} G"
            name = f"{name} in {stage}"
            rows.append(Row(name, "FLOPs", "picture", None, why=f"{why}; here {text}"))
    title = "GloRe against non-local blocks (Chen et al. 2019), ImageNet"
    return Table(title, "slides", rows, "Ours: one block at 224 x 224 pixels.")


def _cub() -> Table:
    resnet = partial(torchvision.models.resnet18, num_classes=200)
    alone = parameters(resnet) / M
    with_unit = alone + parameters(partial(GloRe, channels=256, num_nodes=16)) / M
    why = "the slides say N = 16 and 256 -> 256 channels; here S = 2 N on 256 channels"
    rows = [
        Row("ResNet-18", PARAMETERS, "11.28", alone),
        Row("ResNet-18 + 1 in res4", PARAMETERS, "11.53", with_unit, why=why),
    ]
    return Table("GloRe on CUB-200 (a run of the slides)", "slides", rows)
