"""LR-Net (Hu et al. 2019), and learned region features (Gu et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import torchvision

from ...modeling.lr_net import lr_net
from .counts import parameters, products
from .rows import G, M, Row, Table

CLASSES = 1000
NOTE = """\
Ours: torchvision's ResNet, 224 x 224 pixels; LR-Net with groups of 10 channels in res2, whose width
of 100 is no multiple of 8, and geometry priors of G / 2 hidden channels (0.025 and 0.014 M), since
the paper does not say how many they have. A neighbour outside the map takes no multiplication."""
GI = 2**30
N, BINS, C_E, C_G, C_F, PLACES = 300, 49, 512, 256, 256, 38 * 64
# Of the places that are looked at; the first and the fourth are over the whole map.
FORMULAS: dict[str, Callable[[int], int]] = {
    "W_im E_im(p)": lambda places: 2 * PLACES * C_E * C_G,
    "W_box E_box(b)": lambda places: N * C_E * (BINS * C_G + 4 * C_E),
    "G(b, p)": lambda places: N * BINS * places * C_G,
    "A(x, p)": lambda places: PLACES * BINS * C_F,
    "sum of w x": lambda places: N * BINS * places * C_F,
}
BY_REGION = ("G(b, p)", "sum of w x")
PUBLISHED = dict(
    zip(
        product([*FORMULAS, "sum"], ["every place", "200 places"]),
        "0.59 0.59 2.1 2.1 7.2 0.72 0.03 0.03 7.2 0.72 17.1 4.16".split(),
        strict=True,
    )
)
NOTE_REGIONS = """\
Ours: the formulas of the table with N = 300 regions, 49 bins, C_E = 512, C_g = C_f = 256 and a map
of 38 x 64, in units of 2^30; of powers of two only these widths give all rows. The layer here makes
G of a row and a column part, N K (H + W) C_g, which is 0.36 for every place."""
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
    columns = {"every place": PLACES, "200 places": 200}
    implied = {"every place": 2050, "200 places": 205}
    rows: list[Row] = []
    sums: dict[str, list[Row]] = {}
    for name, formula in FORMULAS.items():
        for column, places in columns.items():
            here, lines = formula(places) / GI, []
            if name in BY_REGION:
                there = formula(implied[column]) / GI
                lines.append((f"the published number is that of {implied[column]:,} places",
                              there - here))  # fmt: skip
            row = Row(f"{name}, {column}", "Gi multiply-adds", PUBLISHED[name, column], here, lines)
            rows.append(row)
            sums.setdefault(column, []).append(row)
    for column, parts in sums.items():
        here = sum(row.here for row in parts)
        lines = [
            ("the published sum is that of the rounded rows", sum(r.value for r in parts) - here)
        ]
        published = PUBLISHED["sum", column]
        rows.append(Row(f"sum, {column}", "Gi multiply-adds", published, here, lines))
    title = "Learned region features (Gu et al. 2018, table 1)"
    return Table(title, "table of the paper", rows, NOTE_REGIONS)
