"""Settings of jax and XLA that decide numbers: the same whatever the environment says.

Which rows a seed sees depends on the generator behind its keys, on how that generator's
bits are laid out over an array, and on an offset that jax can add to every seed;
whether arithmetic is float64 depends on a flag. `pinned` sets what can be set, for as
long as something is trained, measured or computed, and refuses the rest:

    JAX_DEFAULT_PRNG_IMPL          threefry2x32
    JAX_THREEFRY_PARTITIONABLE     true
    JAX_ENABLE_X64                 what the record says
    JAX_NUMPY_DTYPE_PROMOTION      standard
    JAX_SOFTMAX_CUSTOM_JVP         true
    JAX_DEFAULT_MATMUL_PRECISION   highest, or GPUs and TPUs round factors
    JAX_DISABLE_JIT                false
    JAX_RANDOM_SEED_OFFSET         must be 0
    JAX_HIGH_DYNAMIC_RANGE_GUMBEL  must be false
    XLA_FLAGS                      without fast math, which drops NaN and infinity
"""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import jax

from sandbox.errors import SandboxError, require

_FIXED = {
    "jax_random_seed_offset": 0,
    "jax_high_dynamic_range_gumbel": False,
}
_FAST_MATH = re.compile(r"--(xla_\w*enable_fast_math)(?!=(?:false|0)\b)")


@contextmanager
def pinned(*, x64: bool = False) -> Iterator[None]:
    """Computes under the settings of the module's docstring.

    Args:
      x64: whether in float64.

    Raises:
      ConfigError: a setting that cannot be set here has another value; it is named.
      SandboxError: jax has no device under JAX_PLATFORMS.
    """
    for name, value in _FIXED.items():
        found = getattr(jax.config, name, value)
        require(
            found == value,
            f"{name.upper()} is {found}, which changes every random number; unset it"
            f" (or set it to {value}).",
        )
    fast = _FAST_MATH.search(os.environ.get("XLA_FLAGS", ""))
    require(
        fast is None,
        f"XLA_FLAGS has --{fast and fast[1]}, under which numbers that are not finite"
        " go unseen; take it out.",
    )
    try:
        jax.devices()
    except Exception as e:  # an AssertionError without a word, among others
        named = os.environ.get("JAX_PLATFORMS", "")
        raise SandboxError(
            f"jax has no device (JAX_PLATFORMS={named!r}): unset JAX_PLATFORMS, or"
            " install what it names; `sandbox doctor` says which extra fits."
        ) from e
    with ExitStack() as stack:
        for setting in (
            jax.threefry_partitionable(True),
            jax.default_prng_impl("threefry2x32"),
            jax.enable_x64(x64),
            jax.numpy_dtype_promotion("standard"),
            jax.softmax_custom_jvp(True),
            jax.default_matmul_precision("highest"),
            jax.disable_jit(False),
        ):
            stack.enter_context(setting)
        yield
