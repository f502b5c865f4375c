"""Kinds of misuse. Each module has one function that makes its cases in a `Workshop`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.robustness.case import Case, Workshop

from . import arguments, data, divergence, files, keys, stock_keys

FAMILIES: dict[str, Callable[[Workshop], Iterator[Case]]] = {
    "keys": keys.cases_of_keys,
    "trained": keys.cases_that_train,
    "stock": stock_keys.cases_of_stock_keys,
    "together": stock_keys.cases_of_keys_together,
    "configs": files.cases_of_configs,
    "weights": files.cases_of_weights,
    "graphs": files.cases_of_graphs,
    "annotations": data.cases_of_annotations,
    "images": data.cases_of_images,
    "divergence": divergence.cases_of_divergence,
    "arguments": arguments.cases_of_arguments,
}
