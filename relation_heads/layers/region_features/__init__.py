"""Learned region features (Gu et al., ECCV 2018)."""

from .learned import LearnedRegionFeatures

__all__ = ["LearnedRegionFeatures"]
