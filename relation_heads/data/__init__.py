"""Data sets, vocabularies and mappers; import the submodule that is needed."""
