"""Hu et al., CVPR 2018: tables 2 and 5."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

from ...config import get_cfg, merge_file
from ..detectors import analyze
from ..roi_heads import RegionCounts
from .counts import linear
from .rows import MI, G, Row, Table

FORMS = ("2fc", "2fc + RM", "2fc + RM + e2e")
SUFFIXES = ("", "_relation", "_relation_learn_nms")
# Detector -> published parameters and FLOPs of the three forms.
TABLE_5 = {
    "Faster R-CNN": (("58.3", "64.3", "64.6"), ("122.2", "124.6", "124.9")),
    "FPN": (("56.4", "62.4", "62.8"), ("145.8", "157.8", "158.2")),
    "DCN": (("60.5", "66.5", "66.8"), ("125.0", "127.4", "127.7")),
}
CONFIGS = {
    "Faster R-CNN": "COCO-Detection/faster_rcnn_R_101_C5{}_8epoch.yaml",
    "FPN": "COCO-Detection/faster_rcnn_R_101_FPN{}_1x.yaml",
    "DCN": "COCO-Detection/faster_rcnn_R_101_C5_dcn{}_8epoch.yaml",
}
SIZE = (600, 1000)  # pixels
REGIONS = {"Faster R-CNN": 300, "FPN": 1000, "DCN": 300}
# Table 2, as differences from 2fc of 1024 channels: parameters, FLOPs.
TABLE_2 = {
    "2fc of 1432 channels": ("+6.1", "+1.8"),
    "3fc": ("+1.0", "+0.3"),
    "2fc + residual {1,1}": ("+6.0", "+1.9"),
    "2fc + global": ("+0.2", "+2.0"),
    "2fc + RM {1,1}": ("+6.0", "+2.4"),
    "2fc + 2 x RoI": ("+12.2", "+3.6"),
    "2fc + 2 x RoI + RM": ("+18.2", "+6.0"),
    "2fc + residual {2,2}": ("+12.0", "+3.8"),
    "2fc + RM {2,2}": ("+12.0", "+4.7"),
}
WIDTH, WIDER, POOLED, BOXES = 1024, 1432, 256 * 7 * 7, 300
OUTPUTS = 81 + 2 * 4  # of the predictor: classes with background, boxes for object and background
OFFSETS = 2 * 9  # outputs of a deformable 3 x 3 convolution with one group


UNITS = (("Mi parameters", MI), ("G multiply-adds", G))
NOTE_5 = """\
Ours: ResNet-101 with frozen norms that are no parameters, 80 classes and the background, 16 heads,
boxes of no class, an image of 600 x 1000 pixels, 300 proposals (FPN: 1000); in e2e 100 boxes of
each class (FPN: 150). The published M is 2^20: in units of 10^6 two modules are +6.30, and 2 x RoI
of table 2 is +12.85. What remains of the parameters is near that of one convolution: 0.50 is the
1 x 1 one of 2048 to 256 channels, 0.56 a 3 x 3 one of 256. The paper does not say what it counts,
nor on which image; without the RPN the multiply-adds of 2fc are within 2 % of the published."""
NOTE_2 = "Differences from 2fc of 1024 channels; ours are of the layers that are added, 300 boxes."


@cache
def costs(detector: str, form: str) -> dict[str, tuple[int, int]]:
    """Part -> parameters, multiply-adds."""
    cfg = get_cfg()
    merge_file(cfg, CONFIGS[detector].format(SUFFIXES[FORMS.index(form)]))
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    regions = RegionCounts(training=16, test=REGIONS[detector], detections=100)
    found = analyze(cfg, SIZE, regions)
    return {part: (c.parameters, c.multiply_adds) for part, c in found.items()}


def count(detector: str, form: str, k: int) -> float:
    """Parameters (k = 0), or multiply-adds (1), in the unit of the table."""
    if detector == "DCN" and form != FORMS[0]:  # the heads are those of Faster R-CNN
        step = count("Faster R-CNN", form, k) - count("Faster R-CNN", FORMS[0], k)
        return count("DCN", FORMS[0], k) + step
    return sum(part[k] for part in costs(detector, form).values()) / UNITS[k][1]


def tables() -> list[Table]:
    """Tables 5 and 2."""
    return [_table_5(), _table_2()]


def _deformable(k: int) -> list[tuple[str, float]]:
    """What the released DCN has and Detectron2's does not."""
    places = 38 * 63  # of res5 at 600 x 1000
    found = []
    for text, weights, biases, times in (
        ("offsets of 4 groups in res5", 3 * 512 * 9 * 3 * OFFSETS, 3 * 3 * OFFSETS, places),
        ("deformable RoI pooling", POOLED * 2 * 49, 2 * 49, BOXES),
    ):
        found.append((text, (weights * times if k else weights + biases) / UNITS[k][1]))
    return found


def _lines(detector: str, k: int) -> list[tuple[str, float]]:
    """What the published number counts in another way, as far as it is known."""
    lines = _deformable(k) if detector == "DCN" else []
    rpn = ("without the RPN", -costs(detector, FORMS[0])["RPN"][k] / UNITS[k][1])
    # In the released FPN code the RPN is a network of its own.
    return [*lines, rpn] if k or detector == "FPN" else lines


def _step(detector: str, k: int, form: str) -> str:
    """The published difference of a form from the one before it."""
    numbers = TABLE_5[detector][k]
    at = FORMS.index(form)
    return f"{float(numbers[at]) - float(numbers[at - 1]):+.1f}"


def _table_5() -> Table:
    rows = []
    for detector, published in TABLE_5.items():
        for at, form in enumerate(FORMS):
            for k, (unit, _) in enumerate(UNITS):
                here, lines = count(detector, form, k), _lines(detector, k)
                rows.append(Row(f"{detector}, {form}", unit, published[k][at], here, lines))
    for detector in TABLE_5:
        for before, form in pairwise(FORMS):
            for k, (unit, _) in enumerate(UNITS):
                here = count(detector, form, k) - count(detector, before, k)
                name = f"{detector}: {form} - ({before})"
                why = WHY.get((form, k), "")
                rows.append(Row(name, unit, _step(detector, k, form), here, why=why))
    for k, (unit, _) in enumerate(UNITS):
        here = count("DCN", FORMS[0], k) - count("Faster R-CNN", FORMS[0], k)
        both = (float(TABLE_5[d][k][0]) for d in ("DCN", "Faster R-CNN"))
        rows.append(
            Row(
                "DCN - Faster R-CNN, 2fc", unit, f"{next(both) - next(both):+.1f}", here,
                _deformable(k),
            )
        )  # fmt: skip
    title = "Relation networks (Hu et al. 2018, table 5)"
    return Table(title, "table of the paper, also in the slides", rows, NOTE_5)


WHY = {
    (FORMS[1], 1): "elementwise work on pairs of boxes is no product, and not counted here",
    (FORMS[2], 0): "the released code embeds ranks in 1024 channels; with 128, as in the paper, it "
    "has 0.11 less",
    (FORMS[2], 1): "here all 80 classes; the published number is that of a few",
}


def _table_2() -> Table:
    both = linear(POOLED, WIDER) + linear(WIDER, WIDER) + linear(WIDER, OUTPUTS)
    both -= linear(POOLED, WIDTH) + linear(WIDTH, WIDTH) + linear(WIDTH, OUTPUTS)
    weights = both - 2 * (WIDER - WIDTH)
    rois = POOLED * WIDTH
    modules = [
        (count("Faster R-CNN", FORMS[1], k) - count("Faster R-CNN", FORMS[0], k)) * scale
        for k, (_, scale) in enumerate(UNITS)
    ]
    added: dict[str, tuple[float, float]] = {
        "2fc of 1432 channels": (both, weights * BOXES),
        "3fc": (linear(WIDTH, WIDTH), WIDTH * WIDTH * BOXES),
        "2fc + RM {1,1}": (modules[0], modules[1]),
        "2fc + 2 x RoI": (rois, rois * BOXES),
        "2fc + 2 x RoI + RM": (rois + modules[0], rois * BOXES + modules[1]),
        "2fc + RM {2,2}": (2 * modules[0], 2 * modules[1]),
    }
    rows = []
    for name, published in TABLE_2.items():
        for k, (unit, scale) in enumerate(UNITS):
            if name not in added:
                why = "we do not know the layers of this form"
                rows.append(Row(name, unit, published[k], None, why=why))
                continue
            here = added[name][k]
            why = f"in units of 2^30 {here / 2**30:+.2f}" if k else ""
            rows.append(Row(name, unit, published[k], here / scale, why=why))
    title = "Relation networks (Hu et al. 2018, table 2)"
    return Table(title, "table of the paper", rows, NOTE_2)
