"""Time, memory and error of every operator beside its peers, for `tools/benchmark.py`."""
