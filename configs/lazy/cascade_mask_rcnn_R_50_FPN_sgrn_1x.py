"""Cascade Mask R-CNN R50-FPN with SGRN after the last stage, built from Python.

    python <detectron2>/tools/lazyconfig_train_net.py \
        --config-file configs/lazy/cascade_mask_rcnn_R_50_FPN_sgrn_1x.py
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.model_zoo import get_config
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers

from relation_heads.layers import SGRN
from relation_heads.modeling import CascadeRelationalROIHeads, SGRNMechanism

stock = get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")
dataloader, train = stock.dataloader, stock.train
optimizer, lr_multiplier = stock.optimizer, stock.lr_multiplier

model = get_config("common/models/cascade_rcnn.py").model
model.backbone.bottom_up.freeze_at = 2
model.roi_heads._target_ = CascadeRelationalROIHeads
model.roi_heads.mechanism = L(SGRNMechanism)(
    # The nodes are rows of the base classifier with its bias; h has 256 channels.
    graph=L(SGRN)(dim=1024, node_dim=1025, graph_dims=[512, 256]),
    predictor=L(FastRCNNOutputLayers)(
        input_shape=ShapeSpec(channels=1024 + 256),
        test_score_thresh=0.05,
        box2box_transform=L(Box2BoxTransform)(weights=(10, 10, 5, 5)),
        cls_agnostic_bbox_reg=True,
        num_classes="${...num_classes}",
    ),
    foreground_edges=True,
)
