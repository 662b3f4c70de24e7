"""Settings of jax move no number: they are set, or refused by name."""

import contextlib
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.distill.sources import Final
from sandbox.distill.strategy import Strategy
from sandbox.errors import ConfigError
from sandbox.models.mlp import MLP
from sandbox.probes.fourier import FourierProbe
from sandbox.probes.offline import measure_trajectory
from sandbox.tasks.parity import Parity, RandomSupport
from sandbox.train.arithmetic import pinned
from sandbox.train.loop import fit
from sandbox.train.progress import Silent
from sandbox.train.spec import RunSpec, Stop, TeacherRef

TEACHER = RunSpec(
    kind="teacher",
    task=Parity(d=8, k=2, support=RandomSupport()),
    model=MLP(d=8, hidden=(8,)),
    strategies=(Strategy(name="teacher"),),
    stop=Stop(max_samples=256),
    eval_every=128,
    checkpoint_every=128,
    eval_points=64,
    n_seeds=2,
)
STUDENTS = RunSpec(
    kind="student",
    task=TEACHER.task,
    model=MLP(d=8, hidden=(4,)),
    strategies=(Strategy(name="ce"), Strategy(name="one_shot", source=Final())),
    teacher=TeacherRef(spec=TEACHER, final=256),
    stop=Stop(max_samples=256),
    eval_every=128,
    eval_points=64,
    n_seeds=2,
)
SETTINGS = {
    "jax_threefry_partitionable": False,
    "jax_default_prng_impl": "rbg",
    "jax_enable_x64": True,
    "jax_numpy_dtype_promotion": "strict",
    "jax_softmax_custom_jvp": False,
    "jax_default_matmul_precision": "bfloat16",
    "jax_disable_jit": True,
}
SLOW = pytest.mark.slow


@contextlib.contextmanager
def setting(name, value):
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, before)


def numbers(root):
    """Every number of a teacher, a probe of it, and its students."""
    run = fit(TEACHER, root=root, progress=Silent())
    probe = FourierProbe(TEACHER.task, TEACHER.model, degrees=(1,), points=64)
    found = dict(measure_trajectory(run, probe, root=root, progress=Silent()).values)
    for r in (run, fit(STUDENTS, root=root, progress=Silent())):
        found |= {f"{r.spec.kind}/{k}": v for k, v in r.metrics.columns.items()}
        leaves = jax.tree.leaves(r.trajectory.read(256))
        found |= {f"{r.spec.kind}/{i}": np.asarray(v) for i, v in enumerate(leaves)}
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return numbers(tmp_path_factory.mktemp("default"))


@pytest.mark.parametrize(
    "names", [tuple(SETTINGS), *(pytest.param((n,), marks=SLOW) for n in SETTINGS)]
)
def test_no_setting_moves_a_bit(names, expected, tmp_path):
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(setting(name, SETTINGS[name]))
        got = numbers(tmp_path)
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        assert got[key].dtype == value.dtype
        np.testing.assert_array_equal(got[key], value, err_msg=key)


@pytest.mark.parametrize(
    ("name", "value"),
    [("jax_random_seed_offset", 7), ("jax_high_dynamic_range_gumbel", True)],
)
def test_what_cannot_be_set_is_refused_by_name(name, value, tmp_path):
    with (
        setting(name, value),
        pytest.raises(ConfigError, match=f"{name.upper()} is {value}"),
    ):
        fit(TEACHER, root=tmp_path, progress=Silent())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "flag", ["--xla_cpu_enable_fast_math", "--xla_cpu_enable_fast_math=true"]
)
def test_fast_math_is_refused(flag, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} {flag}")
    with pytest.raises(ConfigError, match="xla_cpu_enable_fast_math"), pinned():
        pass
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    with pinned():
        assert jnp.zeros(1).dtype == jnp.float32


def test_factors_of_products_are_rounded_on_no_device():
    a = jnp.zeros((2, 2))
    assert "HIGHEST" not in jax.jit(lambda a: a @ a).lower(a).as_text()
    with setting("jax_default_matmul_precision", "bfloat16"), pinned():
        text = jax.jit(lambda a: a @ a).lower(a).as_text()
    assert "precision = [HIGHEST, HIGHEST]" in text
