"""What is wrong with a data set in COCO format: findings of its file, its boxes, its images."""

from .findings import Finding
from .format import class_findings, coco_findings

__all__ = ["Finding", "class_findings", "coco_findings"]
