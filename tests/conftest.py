"""Shared test set-up: one thread, fixed seeds, no network, throw-away caches, rules about skips.

- A module that needs Detectron2 starts with `pytest.importorskip("detectron2")`. Without
  Detectron2 these modules are skipped and named at the end of the report; with
  `REQUIRE_DETECTRON2=1` nothing may be skipped for lack of it.
"""

from __future__ import annotations

import importlib
import ipaddress
import logging
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # read by OpenMP when torch is imported, so it is set first

import numpy as np
import pytest
import torch

# Caches of fvcore, torch hub and matplotlib go to a folder that disappears with this process.
_CACHE = tempfile.TemporaryDirectory(prefix="relation_heads_tests_", ignore_cleanup_errors=True)
for _name in ("FVCORE_CACHE", "TORCH_HOME", "MPLCONFIGDIR", "XDG_CACHE_HOME"):
    os.environ[_name] = os.path.join(_CACHE.name, _name.lower())
# What the developer set for their own runs must not reach the tests.
for _name in ("DETECTRON2_DATASETS", "DETECTRON2_ENV_MODULE", "RELATION_HEADS_DATASETS"):
    os.environ.pop(_name, None)

torch.set_num_threads(1)

HOW_TO_GET_DETECTRON2 = (
    "`make setup` installs it (DETECTRON2=/path/to/checkout takes it from a local copy)"
)


def _detectron2_required() -> bool:
    return os.environ.get("REQUIRE_DETECTRON2", "") not in ("", "0")


def _is_for_lack_of_detectron2(reason: str) -> bool:
    # A Detectron2 without its compiled extension (`_C`) is supported, so it is not missing.
    return "detectron2" in reason.lower() and "_C" not in reason


# ---- start ----


def pytest_configure(config: pytest.Config) -> None:
    _block_network()
    if _detectron2_required():
        try:
            importlib.import_module("detectron2")
        except ImportError as error:
            pytest.exit(
                f"REQUIRE_DETECTRON2 is set but detectron2 cannot be imported ({error}): "
                f"{HOW_TO_GET_DETECTRON2}.",
                returncode=1,
            )


# ---- skips for lack of Detectron2 ----


def _skip_reason(report: Any) -> str:
    longrepr = report.longrepr
    return str(longrepr[2] if isinstance(longrepr, tuple) else longrepr)


def _fail_if_required(report: Any) -> Any:
    if report.skipped and _detectron2_required():
        reason = _skip_reason(report)
        if _is_for_lack_of_detectron2(reason):
            report.outcome = "failed"
            report.longrepr = f"REQUIRE_DETECTRON2 is set and this was skipped: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    return _fail_if_required((yield))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    return _fail_if_required((yield))


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Names the modules that were skipped because Detectron2 is missing, and how to get it."""
    modules = sorted(
        {
            report.nodeid.split("::")[0]
            for report in terminalreporter.stats.get("skipped", [])
            if _is_for_lack_of_detectron2(_skip_reason(report))
        }
    )
    if modules:
        terminalreporter.section("skipped: Detectron2 is not installed")
        for module in modules:
            terminalreporter.write_line(module)
        terminalreporter.write_line(
            f"Skipped for lack of Detectron2, {len(modules)} in all: {HOW_TO_GET_DETECTRON2}."
        )


# ---- every test: seeds; no network ----


@pytest.fixture(autouse=True)
def _seed_everything() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _loggers_as_at_the_start() -> Iterator[None]:
    """Detectron2's `setup_logger` stops records at its loggers, and lets those of all levels
    through: here all of the usual levels reach `caplog`, once."""
    loggers = [logging.getLogger(name) for name in ("relation_heads", "detectron2", "fvcore")]
    for logger in loggers:
        logger.propagate = True
    yield
    for logger in loggers:
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
        logger.handlers.clear()  # their streams and files belong to this test


def _is_local(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode()
    if host is None or host in ("", "localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(str(host).partition("%")[0])
    except ValueError:  # a host name, which would need a look-up
        return False
    return address.is_loopback or address.is_unspecified


def _block_network() -> None:
    """Makes every look-up of and connection to another machine raise; loopback and AF_UNIX stay."""
    if getattr(socket.socket.connect, "blocks_network", False):
        return  # pytest_configure runs again when a test starts pytest inside this process

    def check(host: object) -> None:
        if not _is_local(host):
            raise RuntimeError(f"a test tried to reach the network: {host!r}")

    def guard(method: str) -> None:
        original = getattr(socket.socket, method)

        def guarded(self: socket.socket, *args: Any) -> Any:
            address = args[-1]  # sendto takes (data[, flags], address)
            if self.family in (socket.AF_INET, socket.AF_INET6) and isinstance(address, tuple):
                check(address[0])
            return original(self, *args)

        guarded.blocks_network = True  # type: ignore[attr-defined]
        setattr(socket.socket, method, guarded)

    for method in ("connect", "connect_ex", "sendto"):
        guard(method)
    resolve = socket.getaddrinfo

    def guarded_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        check(host)
        return resolve(host, *args, **kwargs)

    socket.getaddrinfo = guarded_getaddrinfo
