"""Fixed edges between the classes of a data set, along which what classes know is sent."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..precision import no_autocast, widen


class ClassEdges(nn.Module):
    """A sparse matrix A (C, C), rows are targets; `forward` is A V. It has no parameters, and is no
    part of a checkpoint, as it comes from a file of its own."""

    ends: Tensor
    weights: Tensor

    def __init__(self, adjacency: Tensor) -> None:
        """
        Args:
            adjacency: (C, C), sparse or dense.
        """
        super().__init__()
        self.size = (adjacency.shape[0],) * 2
        edges = adjacency.to_sparse_coo().coalesce()
        self.register_buffer("ends", edges.indices(), persistent=False)  # (2, nnz)
        self.register_buffer("weights", edges.values(), persistent=False)  # (nnz,)

    def forward(self, values: Tensor) -> Tensor:
        """A V: (C, D) to (C, D), in float32 or wider (sparse products need it)."""
        with no_autocast(values):
            values = widen(values)
            weights = self.weights.to(values.dtype)
            if torch.jit.is_tracing() or torch.compiler.is_compiling():  # without sparse tensors
                return weights.new_zeros(self.size).index_put(self.ends.unbind(), weights) @ values
            # Checked and coalesced where the module was made.
            matrix = torch.sparse_coo_tensor(
                self.ends, weights, self.size, is_coalesced=True, check_invariants=False
            )
            return matrix @ values.contiguous()
