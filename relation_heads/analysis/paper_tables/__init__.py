"""Every parameter and FLOP table of the papers beside our counts: one row per published number.

Only the published numbers are written down, each table with where it is from; what stands beside
them is counted when it is printed, on tensors without memory, and so is the verdict (`rows`).
One file per paper.
"""

from __future__ import annotations

from . import gcnet, glore, kinetics, local_relation, relation_networks
from .rows import Table

ABOUT = """# Published counts beside ours

`tools/analyze_model.py --paper-table` prints this page: one row per published number; for the rows
of ResNeXt and DPN install timm (`pip install 'relation_heads[tables]'`). "M" is 10^6, "Mi" 2^20.
What papers call FLOPs are multiply-adds, "G" of them 10^9. A signed number is the difference of two
published ones. The verdict is computed:

- **equal**: our count, rounded as the published number is (a difference of published numbers, which
  are rounded themselves, may be off by one in its last digit).
- **explained**: equal after the changes that the row lists, each with its amount.
- **not reproduced**: with what remains, or why nothing is counted here.

The papers of SGRN and of iterative visual reasoning are not in this list: we know of no published
parameter or FLOP count of either."""


def all_tables() -> list[Table]:
    """In the order of the page."""
    return [
        *relation_networks.tables(),
        *gcnet.tables(),
        *glore.tables(),
        *kinetics.tables(),
        *local_relation.tables(),
    ]


def paper_tables() -> str:
    """The page, as Markdown."""
    return "\n\n".join([ABOUT, *(table.markdown() for table in all_tables())])
