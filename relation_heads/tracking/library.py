"""What tracking takes from `trackers`, and one sentence where that is not installed.

Roboflow's `trackers` (Apache-2.0) has births, deaths, assignment and metrics, and SORT and
ByteTrack to compare with. It takes seconds to import, which only the modules that need it pay.
"""

try:
    import supervision
    from trackers import BaseIoU, ByteTrackTracker, SORTTracker
    from trackers.eval import (
        aggregate_clear_metrics,
        aggregate_hota_metrics,
        aggregate_identity_metrics,
        box_iou,
        compute_clear_metrics,
        compute_hota_metrics,
        compute_identity_metrics,
    )
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"Tracking needs `trackers`, and there is no {error.name}: "
        "pip install 'relation_heads[tracking]'."
    ) from error

__all__ = [
    "BaseIoU",
    "ByteTrackTracker",
    "SORTTracker",
    "aggregate_clear_metrics",
    "aggregate_hota_metrics",
    "aggregate_identity_metrics",
    "box_iou",
    "compute_clear_metrics",
    "compute_hota_metrics",
    "compute_identity_metrics",
    "supervision",
]
