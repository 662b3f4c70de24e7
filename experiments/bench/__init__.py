"""Benchmarks: ours against a floor and a peer, in one run, as a ratio."""
