"""Default keys, how a run's config is put together, and what is checked before it is used."""

from .checks import check_cfg
from .defaults import add_relation_heads_config
from .setup import find_config, get_cfg, setup_cfg

__all__ = ["add_relation_heads_config", "check_cfg", "find_config", "get_cfg", "setup_cfg"]
