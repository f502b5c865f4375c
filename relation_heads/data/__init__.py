"""Data sets, vocabularies and mappers; import the submodule that is needed."""

from contextlib import suppress

with suppress(ModuleNotFoundError):  # what is plain numpy works without it
    import detectron2  # noqa: F401  (first: it registers us, see `registration`)
