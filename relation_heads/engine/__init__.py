"""Training and evaluation runs."""

from .checkpoint import ReportingCheckpointer
from .freeze import train_only
from .predictor import Predictor, load
from .trainer import RelationTrainer

__all__ = ["Predictor", "RelationTrainer", "ReportingCheckpointer", "load", "train_only"]
