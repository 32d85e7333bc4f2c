"""Benchmarks that time vigmpi and its contenders in the same run."""
