"""LR-Net (Hu et al. 2019), and a layer that is not here: learned region features (Gu et al.
2018)."""

from __future__ import annotations

from functools import partial

import torchvision

from ...modeling.lr_net import lr_net
from .counts import parameters, products
from .rows import G, M, Row, Table

NOT_HERE = "the layer is not here yet"
CLASSES = 1000
NOTE = """\
Ours: torchvision's ResNet, 224 x 224 pixels; LR-Net with groups of 10 channels in res2, whose width
of 100 is no multiple of 8, and geometry priors of G / 2 hidden channels (0.025 and 0.014 M), since
the paper does not say how many they have. A neighbour outside the map takes no multiplication."""
RESNET_50 = partial(torchvision.models.resnet50)


def tables() -> list[Table]:
    """LR-Net, learned region features."""
    return [_lr_net(), _region_features()]


def _lr_net() -> Table:
    rows = [
        Row("ResNet-50", "M parameters", "25.5", parameters(RESNET_50) / M),
        Row("ResNet-50", "G multiply-adds", "4.3", products(RESNET_50) / G,
            why="the ratio of LR-Net-50 to it, 1.00, is here 0.98"),
    ]  # fmt: skip
    for name, depth, size, published in (
        ("LR-Net-50 (7 x 7, m = 8)", 50, "23.3", "4.3"),
        ("LR-Net-26", 26, "14.7", "2.6"),
    ):
        make = partial(lr_net, depth, num_classes=CLASSES)
        rows.append(Row(name, "M parameters", size, parameters(make) / M))
        rows.append(Row(name, "G multiply-adds", published, products(make) / G))
    return Table(
        "LR-Net (Hu et al. 2019), ImageNet",
        "slides (50 layers), other public pages (26 layers)",
        rows,
        NOTE,
    )


def _region_features() -> Table:
    columns = ("every place", "200 places")
    published = {
        "W_im E_im(p)": ("0.59", "0.59"),
        "W_box E_box(b)": ("2.1", "2.1"),
        "G(b, p)": ("7.2", "0.72"),
        "A(x, p)": ("0.03", "0.03"),
        "sum of w x": ("7.2", "0.72"),
        "sum": ("17.1", "4.16"),
    }
    rows = [
        Row(f"{name}, {column}", "G multiply-adds", number, None, why=NOT_HERE)
        for name, numbers in published.items()
        for column, number in zip(columns, numbers, strict=True)
    ]
    title = "Learned region features (Gu et al. 2018, table 1)"
    return Table(title, "table of the paper", rows)
