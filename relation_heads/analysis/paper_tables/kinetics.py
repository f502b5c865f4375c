"""Chen et al., CVPR 2019: the Kinetics-400 table."""

from __future__ import annotations

from functools import partial

from torch import nn

from ...layers.blocks.glore import GloRe
from .counts import parameters, products
from .rows import G, Row, Table
from .video_resnet import R50_PLACES, R101_PLACES, video_resnet

CLIP = (1, 3, 8, 224, 224)
NETWORKS = {
    "GloRe, ResNet-50": partial(video_resnet, (3, 4, 6, 3), R50_PLACES),
    "GloRe, ResNet-101": partial(video_resnet, (3, 4, 23, 3), R101_PLACES),
}
PUBLISHED = {
    "I3D-RGB, Inception-v1, 64 frames": "107.9",
    "R(2+1)D-RGB, 32 frames": "152.4",
    "MF-Net, 16 frames": "11.1",
    "S3D-G, Inception-v1, 64 frames": "71.4",
    "NL-Nets, ResNet-50": "30.5",
    "GloRe, ResNet-50": "28.0",
    "NL-Nets, ResNet-101": "56.1",
    "GloRe, ResNet-101": "54.5",
}


NOTE = """\
Ours: 8 frames of 224 x 224 pixels. The text of the slides has lost the points of the numbers."""


def network_parameters(name: str) -> int:
    """With the units of the released PyTorch code, which have a batch norm."""
    unit = partial(GloRe, dims=3, norm=nn.BatchNorm3d)
    return parameters(partial(NETWORKS[name], unit=unit))


def tables() -> list[Table]:
    """The Kinetics table."""
    rows = []
    for name, published in PUBLISHED.items():
        here = products(NETWORKS[name], CLIP) / G if name in NETWORKS else None
        why = (
            "here: the layers of the released network" if here else "this network is not built here"
        )
        rows.append(Row(name, "G multiply-adds", published, here, why=why))
    return [Table("GloRe (Chen et al. 2019), Kinetics-400", "slides", rows, NOTE)]
