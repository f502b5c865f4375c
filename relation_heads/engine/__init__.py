"""Training and evaluation runs."""

from .checkpoint import ReportingCheckpointer
from .trainer import RelationTrainer

__all__ = ["RelationTrainer", "ReportingCheckpointer"]
