import pytest

pytest.importorskip("detectron2")

from functools import partial

import torch

import relation_heads.analysis.paper_tables as tables
from relation_heads.analysis.paper_tables import (
    BLOCKS,
    CHANNELS,
    IMAGENET,
    R50,
    R200,
    imagenet_multiply_adds,
    mask_rcnn_parameters,
    parameters,
    segmentation_head,
)
from relation_heads.analysis.preactivation_resnet import PublishedOrderGloRe, preactivation_resnet
from relation_heads.layers.blocks.glore import GloRe, PreActivationGloRe

# blocks, units; millions of parameters, with the statistics of norms; billions of multiply-adds
NETWORKS = [
    (R50, {}, 25.553, 25.602, 4.089),
    (R50, {"res4": 3}, 30.488, 30.558, 5.316),
    (R50, {"res3": 2, "res4": 3}, 31.314, 31.390, 5.958),
    (R200, {}, 64.670, 64.842, 15.007),
    (R200, {"res4": 3}, 69.605, 69.797, 16.234),
    (R200, {"res3": 2, "res4": 3}, 70.431, 70.630, 16.876),
]


@pytest.mark.parametrize(("blocks", "units", "own", "with_statistics", "products"), NETWORKS)
def test_imagenet_networks(blocks, units, own, with_statistics, products):
    network = partial(preactivation_resnet, blocks, units)
    assert round(parameters(network) / 1e6, 3) == own
    assert round(parameters(network, statistics=True) / 1e6, 3) == with_statistics
    assert round(imagenet_multiply_adds(network) / 1e9, 3) == products


def test_imagenet_table_lists_these_networks():
    assert [(blocks, units) for _, blocks, units, *_ in IMAGENET] == [row[:2] for row in NETWORKS]


def test_one_unit_by_hand():
    base = imagenet_multiply_adds(partial(preactivation_resnet, R50))
    for stage, channels, places in (("res3", 512, 28 * 28), ("res4", 1024, 14 * 14)):
        n, s = channels // 4, channels // 2
        graph, extend = n * n * s + s * s * n, places * (n * s + s * channels)
        published = places * (channels * s + channels * n + n * s) + graph + extend
        ours = places * 2 * channels * n + n * channels * s + graph + extend
        for unit, expected in ((PublishedOrderGloRe, published), (PreActivationGloRe, ours)):
            network = partial(preactivation_resnet, R50, {stage: 1}, unit)
            assert imagenet_multiply_adds(network) - base == expected


def test_both_orders_are_one_function():
    torch.manual_seed(0)
    units = [cls(channels=16).double() for cls in (PreActivationGloRe, PublishedOrderGloRe)]
    for parameter in units[0].parameters():
        torch.nn.init.normal_(parameter)
    units[1].load_state_dict(units[0].state_dict())
    x = torch.randn(2, 16, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(units[0](x), units[1](x))


def test_the_network_classifies():
    assert preactivation_resnet((1, 1, 1, 1), {"res3": 1})(torch.rand(2, 3, 64, 64)).shape == (
        2,
        1000,
    )


@pytest.mark.parametrize(
    ("suffix", "expected"),
    [("", 44_397_749), ("_nl", 46_497_461), ("_se", 46_903_349), ("_gc", 46_919_490)],
)
def test_mask_rcnn(suffix, expected):
    assert mask_rcnn_parameters(suffix) == expected


def test_units_and_blocks():
    for channels, plain, inner in ((1024, 1_641_472, 1_645_056), (512, 411_136, 412_928)):
        unit = partial(GloRe, channels=channels, norm=torch.nn.BatchNorm2d)
        assert parameters(unit) == plain
        assert parameters(partial(PreActivationGloRe, channels=channels)) == inner
    assert parameters(segmentation_head) == 11_993_875
    for name, layer, published in BLOCKS:
        assert tuple(parameters(partial(layer, channels=c)) for c in CHANNELS) == published, name


def test_the_printed_tables(monkeypatch):
    monkeypatch.setattr(tables, "IMAGENET", IMAGENET[:3])
    text = tables.paper_tables()
    for row in (
        "| GloRe, C = 1024, N = 256 | 1,641,472 | 1,641,472 |",
        "| GloReFCNHead, 19 classes | 11,993,875 | 11,993,875 |",
        "| ResNet-50 | 25.55 | 25.60 | 25.6 | 4.09 | 4.09 | 4.0 |",
        "| + 2 in res3, 3 in res4 | 31.31 | 31.39 | 31.4 | 5.96 | 6.01 | 6.0 |",
        "| + one NL in res4 | 46.497 | 46.5 |",
        "| SE r16 | 8,464 / 8,464 | 33,312 / 33,312 | 132,160 / 132,160 | 526,464 / 526,464 |",
    ):
        assert row in text
    assert max(len(line) for line in text.splitlines() if not line.startswith("|")) <= 100
