"""A traced function must not remember the sizes at which it was traced."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Inputs = Sequence[Tensor]


def assert_traces(
    function: Callable[..., Any], first: Inputs, *others: Inputs, atol: float = 1e-9
) -> None:
    """`torch.jit.trace` at `first`, saved and loaded, gives what `function` gives at all inputs.

    There is no TracerWarning about our code, that something became a constant.
    """
    file = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.jit.save(torch.jit.trace(function, tuple(first), check_trace=False), file)
        file.seek(0)
        loaded = torch.jit.load(file)
    constants = [w for w in caught if issubclass(w.category, torch.jit.TracerWarning)]
    ours = [w for w in constants if "/torch/" not in w.filename]
    assert not ours, [f"{w.filename}:{w.lineno}: {w.message}" for w in ours]
    with torch.no_grad():
        for inputs in (first, *others):
            torch.testing.assert_close(
                loaded(*inputs), function(*inputs), rtol=0, atol=atol, equal_nan=True
            )
