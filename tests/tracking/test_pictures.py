"""Rows of frames with identities, and lines to who was listened to."""

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2")

from relation_heads.layers import Association, ObjectRelation, Regions
from relation_heads.tracking.pictures import Shown, draw_listened, listened, strip
from relation_heads.visualization.canvas import class_color
from relation_heads.visualization.relations import KEY_COLOR

BOXES = np.array([[20, 20, 80, 90], [200, 30, 260, 100], [110, 220, 170, 290]], dtype=float)


def frame(number=1):
    image = np.full((320, 320, 3), 128, dtype=np.uint8)
    return Shown(number, image, BOXES, np.array([4, 7, 9]))


def test_a_row_has_a_panel_for_each_frame():
    one, three = strip([frame()]), strip([frame(k) for k in (1, 5, 9)])
    assert one.shape[0] == three.shape[0] and three.shape[1] > 2.9 * 320
    assert three.dtype == np.uint8 and len(np.unique(three.reshape(-1, 3), axis=0)) > 10


def test_an_identity_keeps_its_colour():
    """Identity 4 goes from the top to the bottom."""
    row = strip([frame(), Shown(2, frame().image, BOXES[::-1], frame().ids)])
    down, right = np.nonzero((row == class_color("4")).all(axis=2))
    left = right < row.shape[1] // 2
    assert left.sum() > 100 and (~left).sum() > 100
    assert down[left].max() < row.shape[0] / 2 < down[~left].min()


def test_weights_are_those_of_the_relation():
    torch.manual_seed(0)
    relation = ObjectRelation(8, num_heads=2, key_dim=4)
    boxes, features = torch.tensor(BOXES, dtype=torch.float32), torch.randn(3, 8)
    weights = listened(Association(8, spatial=relation), boxes, features, (320, 320))
    (by_head,) = relation.weights(features, Regions(boxes, (3,), ((320, 320),)))
    torch.testing.assert_close(weights, (by_head[0] + by_head[1]) / 2)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(3))
    with pytest.raises(ValueError, match="no spatial relation"):
        listened(Association(8), boxes, features, (320, 320))


def test_lines_lead_to_who_was_listened_to():
    weights = np.array([[0.1, 0.9, 0.0], [0.2, 0.2, 0.6], [1.0, 0.0, 0.0]])

    def yellow(drawn, box):
        x1, y1, x2, y2 = box.astype(int)
        part = drawn[y1 - 3 : y2 + 3, x1 - 3 : x2 + 3]
        return int((part == KEY_COLOR).all(axis=2).sum())

    drawn = draw_listened(frame(), weights, identity=4, top=1)
    assert yellow(drawn, BOXES[1]) > 100 and yellow(drawn, BOXES[2]) == 0
    drawn = draw_listened(frame(), weights, identity=7, top=1)
    assert yellow(drawn, BOXES[2]) > 100 and yellow(drawn, BOXES[0]) == 0
    with pytest.raises(ValueError, match=r"\[4, 7, 9\], not 5"):
        draw_listened(frame(), weights, identity=5)
