"""Every key with its default, and where configs are found. Imports nothing of this package."""

from .defaults import add_relation_heads_config, get_cfg, node
from .files import find_config

__all__ = ["add_relation_heads_config", "find_config", "get_cfg", "node"]
