"""Without `trackers` the modules that need it say how to get it, and the others work."""

import importlib
import sys

import pytest


@pytest.mark.parametrize("name", ["metrics", "tracker", "methods"])
def test_a_missing_library_is_one_sentence(name, monkeypatch):
    for module in [m for m in sys.modules if m.startswith("relation_heads.tracking")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "trackers", None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"pip install 'relation_heads\[tracking\]'"
    ) as error:
        importlib.import_module(f"relation_heads.tracking.{name}")
    assert error.value.name is None  # else the program would advise `make setup`
    assert importlib.import_module("relation_heads.tracking.mot_files").read_mot
