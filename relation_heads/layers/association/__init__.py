"""Spatial-temporal relations between tracklets and detections (Xu et al., ICCV 2019)."""

from .module import Association
from .temporal import TemporalAttention
from .tracklets import Tracklets

__all__ = ["Association", "TemporalAttention", "Tracklets"]
