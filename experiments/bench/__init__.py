"""Benchmarks: ours against a floor and a peer, in one run, as a ratio.

A benchmark that is imported before jax, numpy and torch keeps jax on the CPU and every
thread pool at one thread. Where jax came first nothing is set: in tests, and in
processes that a benchmark starts with an environment made for them. Nor is anything
with `--device gpu`.
"""

import os
import sys

GIVEN = os.environ | {"JAX_PLATFORMS": "cpu"}
"""The environment without those limits, for a process on every core."""

DEVICE = "gpu" if "--device gpu" in " ".join(sys.argv).replace("=", " ") else "cpu"
"""What is timed; known before the command line can be read."""

if DEVICE == "cpu" and "jax" not in sys.modules:
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    os.environ["JAX_PLATFORMS"] = "cpu"
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
