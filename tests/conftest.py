"""Settings of every test: CPU (unless `-m gpu`), one thread a worker, strict ranks."""

import atexit
import os
import shutil
import sys
import tempfile

# Before jax starts its backend. A test process, and whatever it spawns, computes on
# one thread, so that `-n 2` fills two cores and bits do not depend on the worker.
_given = os.environ.get("JAX_PLATFORMS")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("PYTHONFAULTHANDLER", "1")  # a process that aborts says where
# What one process of a run has compiled, the other worker and whatever they spawn read:
# programs (a folder that is set from outside outlives the run; it is good for one
# machine), and Python's bytecode where the environment keeps none.
if "SANDBOX_TESTS" not in os.environ:
    _shared = tempfile.mkdtemp(prefix="sandbox-tests-")
    atexit.register(shutil.rmtree, _shared, ignore_errors=True)
    os.environ["SANDBOX_TESTS"] = _shared
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{_shared}/programs")
    if sys.dont_write_bytecode:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = f"{_shared}/bytecode"
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import ctypes
import random
import re
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import jax
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

jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

QUICK = (
    *("distill", "plotting", "store", "study/test_claims"),
    *("theory/test_exponents", "theory/test_parity", "theory/test_ranks"),
    *("theory/test_sample", "models/test_imports", "probes/test_phases"),
    *("probes/test_transitions", "tasks/test_grammar.py", "tasks/test_grammar_arrays"),
    *("test_command", "test_scripts", "train/test_refusals"),
)
"""What `-m quick` runs: where little is compiled."""
LONG = {"fit", "subprocess"}
"""Names that no quick test calls: of training, and of other processes."""
ASKED_FOR = ("slow", "faults", "long", "gpu")
"""Markers of tests that run when they are asked for."""


ON_DEMAND = re.compile(
    "|".join(
        (
            r"engines.*equals_generic\[(two classes, (one m|rev)|four classes, scaled)",
            r"engines.*(options_off|move_a_bit|finite_parameters|seeds_alone).*generic",
            r"test_fit.*(interruptions|one_shot|last_state_kept).*generic",
            r"loop_faults.*cost_nothing.*generic",
            r"contracts.*(any_depth\[mom|reverse-online|forward-gen|depth=3|\(9, 7\))",
            r"streams.*vmap_changes_nothing\[(Expansion|NoisyParity|MultiIndex)",
            r"bayes_context.*(enumeration\[[24]|guess\[(alone|visible))",
            r"test_bayes\.py.*\[uneven",
            r"bit_transformer.*(bert-None|True-True)|two_stage.*hinge_loss\[False",
            r"grammar_sampler.*\[(wide|many symbols|skipping|cfg3f from 10)",
            r"streams.*depend_on_the_call\[(Hierarchy|Expansion|NoisyParity|MultiIndex)",
            r"test_gaussian.*(support1|exponents\[degrees[578])",
            r"engines.*(seen.*generic|finite_parameters\[1-online)|preflight.*\[generic",
            r"test_mlp.*\[13-4|unrolled.*\[task2|attention_kernel.*numbers\[64"
            r"|bayes_trees.*(of_rules|posterior|no_tree)\[uneven"
            r"|teacher_is_its_student\[(three|gpt2|bert)|least_sensitive_heads"
            r"|kernels_give_the_same_numbers\[75|reserves_on_a_gpu",
            r"estimate.*(complexity|regions|place)\.cpu|shares_of_the_middle",
            r"bayes_trees.*likeliest.*uneven|scored_tok|device.*once\[transformer"
            r"|other_code.*(same_programs_is_adopted|a_package\.deep)"
            r"|unrolled.*task1-2|ten_thousand_steps.*3-20-24|other_parts_come_back"
            r"|eight_devices|battery\[(swap|flips)|any_chunking|best_guess\[hidden"
            r"|a_saved_bert|what_is_missing_is_made|gpu.*equals_generic",
            r"leaf_replaced\[student|give_up_where|goes_to_the_device_once"
            r"|another_kind_of_device|is_no_series_is_refused|exponents_of_the_theory"
            r"|test_bayes\.py.*come_at_once"
            r"|limits_stand_before|what_is_dropped_is_the_same|help_says_what_is_timed",
        )
    )
)
"""What runs with the slow ones, because it compiles for seconds: variants, of which at
least one runs always, and tests of what seldom changes."""
IN_CI = re.compile(
    r"contracts.*(test_model\[BitTransformer|strategy\[(forward-online|reverse))"
    r"|contracts.*any_depth\[adam|left_recursion_ends"
    r"|other_code.*(code_of_the_class\[os|notebook_reloads)|one_checkpoint_traj"
    r"|contracts.*test_task\[MultiIndex"
    r"|engines.*equals_generic\[four classes, reverse"
    r"|bayes_context.*(enumeration\[3|smallest_and_the_largest)|tree_of_nltk"
    r"|complex_and_a_coordinate"
)
"""Variants that run with the long ones. What a normal variable is, to the last bit,
depends on how many are drawn as `pytest_configure` compiles, not as users do."""


def pytest_configure(config: pytest.Config) -> None:
    """Compiles quickly rather than well, which is most of the time of short tests."""
    asked = re.search(r"(?<!not )\b(slow|faults|gpu)", config.option.markexpr)
    long = asked is not None
    if asked and asked[1] == "gpu":
        if not _given:
            os.environ.pop("JAX_PLATFORMS", None)
            jax.config.update("jax_platforms", None)
        long = jax.default_backend() != "cpu"
    quickly = os.environ.setdefault(
        "JAX_DISABLE_MOST_OPTIMIZATIONS", str(int(not long))
    )
    jax.config.update("jax_disable_most_optimizations", quickly != "0")
    if quickly != "0" and jax.__version_info__ < (0, 11):  # a flag later ones may lack
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the quick tests, and variants that run on demand."""
    for item in items:
        if ON_DEMAND.search(item.nodeid):
            item.add_marker("slow")
        elif IN_CI.search(item.nodeid):
            item.add_marker("long")
        place = item.path.relative_to(Path(__file__).parent).as_posix()
        function = getattr(item, "function", None)
        if (
            place.startswith(QUICK)
            and not any(item.get_closest_marker(m) for m in ASKED_FOR)
            and not LONG & set(function.__code__.co_names if function else ())
        ):
            item.add_marker("quick")


@pytest.fixture(autouse=True, scope="module")
def _give_back_memory() -> Iterator[None]:
    """Forgets what a module compiled where a worker has grown; it can be read again."""
    yield
    resident = Path("/proc/self/statm")
    if resident.exists() and int(resident.read_text().split()[1]) > 2**18:  # 1 GiB
        jax.clear_caches()
        ctypes.CDLL(None).malloc_trim(0)


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
