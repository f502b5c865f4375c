"""Context blocks in the res5 that belongs to the ROI heads of C4 models."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads
from torch import nn

from ..config.defaults import node
from .context_blocks import add_context_blocks
from .context_plugins import parse_plugins


class ContextRes5:
    """Mix-in before `Res5ROIHeads`: the plugins of `MODEL.CONTEXT_BLOCKS` that name res5."""

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Sequential, int]:
        """See `Res5ROIHeads`; (n, C/2, 2 h, 2 w) to (n, C, h, w)."""
        stage, channels = super()._build_res5_block(cfg)
        plugins = parse_plugins(node(cfg, "CONTEXT_BLOCKS").PLUGINS)
        add_context_blocks({"res5": list(stage)}, [p.restricted({"res5"}) for p in plugins])
        return stage, channels


@ROI_HEADS_REGISTRY.register()
class ContextRes5ROIHeads(ContextRes5, Res5ROIHeads):
    """Detectron2's C4 heads with context blocks in res5."""
