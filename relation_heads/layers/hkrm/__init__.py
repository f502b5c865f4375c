"""Hybrid Knowledge Routed Modules (Jiang et al., NeurIPS 2018): the two learned relations."""

from .difference_relation import DifferenceRelation, prior_loss

__all__ = ["DifferenceRelation", "prior_loss"]
