"""Mask R-CNN R50-FPN with object relation modules, built from Python.

    python <detectron2>/tools/lazyconfig_train_net.py \
        --config-file configs/lazy/mask_rcnn_R_50_FPN_relation_1x.py
"""

from detectron2.config import LazyCall as L
from detectron2.model_zoo import get_config

from relation_heads.layers import ObjectRelation
from relation_heads.modeling import RelationalROIHeads, RelationBoxHead

stock = get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")
model, dataloader, train = stock.model, stock.dataloader, stock.train
optimizer, lr_multiplier = stock.optimizer, stock.lr_multiplier

model.roi_heads._target_ = RelationalROIHeads
model.roi_heads.box_head._target_ = RelationBoxHead
# r1 = r2 = 1: one module after each fc.
model.roi_heads.box_head.relations = [[L(ObjectRelation)(dim=1024)] for _ in range(2)]
