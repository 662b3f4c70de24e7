"""Settings of every test: CPU, one thread a worker, strict rank promotion."""

import os

# Before jax starts its backend. A test process, and whatever it spawns, computes on
# one thread, so that `-n 2` fills two cores and bits do not depend on the worker.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import random
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import jax
import jaxlib
import jaxtyping
import numpy as np
import pytest

# Also for a jax that a plugin imported before the variable above was set.
jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile(
    # Deadlines would fail on compile times.
    "default-no-deadline",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("default-no-deadline")

if _cache := os.environ.get("SANDBOX_TEST_CACHE"):
    # Opt-in. Entries are only good for this jaxlib; do not share the folder between
    # kinds of machine.
    jax.config.update(
        "jax_compilation_cache_dir", str(Path(_cache) / f"jaxlib-{jaxlib.__version__}")
    )
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


@pytest.fixture(autouse=True)
def _seed_global_generators() -> None:
    """Seeds the global generators; tests should still pass their own keys."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (the global state is what is being pinned)


@pytest.fixture
def no_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the types that only tests check, as where the library is used."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def x64() -> Iterator[None]:
    """float64 for the length of one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def key() -> jax.Array:
    """A fixed typed key."""
    return jax.random.key(0)


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """The folder of fixtures made by independent implementations."""
    return Path(__file__).parent / "reference"
