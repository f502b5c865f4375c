"""Every key with its type and default, and where configs are found. Imports `layers` alone."""

import detectron2  # noqa: F401  (first: it registers us, see `registration`)

from .defaults import add_relation_heads_config, get_cfg, node
from .files import find_config, merge_file

__all__ = ["add_relation_heads_config", "find_config", "get_cfg", "merge_file", "node"]
