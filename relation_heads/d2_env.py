"""Makes Detectron2's own, unmodified tools know this package.

    DETECTRON2_ENV_MODULE=relation_heads.d2_env \
        python <detectron2>/tools/train_net.py --config-file <stock>.yaml \
        MODEL.ROI_HEADS.NAME RelationROIHeads

Detectron2 imports the module named by that variable when it is imported itself, and calls
`setup_environment`. Only this package's trainer freezes what `MODEL.TRAIN_ONLY` leaves out: other
tools train everything, and warn that the key is ignored. In a loop of your own call
`relation_heads.engine.train_only(model, patterns)` once the model is built.
"""

from __future__ import annotations


def setup_environment() -> None:
    """Adds our keys to Detectron2's default config; importing this file registered the heads."""
    from detectron2.config.defaults import _C

    from .config.defaults import add_relation_heads_config

    add_relation_heads_config(_C)
    del _C.MODEL["TRAIN_ONLY"]
    _C.register_deprecated_key("MODEL.TRAIN_ONLY")  # "Deprecated config key (ignoring): ..."
