"""Training and evaluation runs."""

from .checkpoint import ReportingCheckpointer
from .freeze import freeze_below_roi_heads, train_only
from .trainer import RelationTrainer

__all__ = ["RelationTrainer", "ReportingCheckpointer", "freeze_below_roi_heads", "train_only"]
