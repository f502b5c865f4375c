"""Training and evaluation runs."""

from .checkpoint import ReportingCheckpointer
from .freeze import train_only
from .trainer import RelationTrainer

__all__ = ["RelationTrainer", "ReportingCheckpointer", "train_only"]
