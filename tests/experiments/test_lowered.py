"""What programs ask of an accelerator, read from what XLA is given."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bench.gpu_programs import Program, _of_probe, programs
from experiments.pcfg_nonterminals import PcfgNonterminals
from sandbox.models.mlp import MLP
from sandbox.platforms import assumed
from sandbox.probes.spectrum import SpectrumProbe
from sandbox.tasks.parity import Parity
from sandbox.theory import two_stage

pytestmark = pytest.mark.long


def equations(jaxpr: Any) -> Iterator[Any]:
    """Of a program and all programs inside it."""
    for eqn in jaxpr.eqns:
        yield eqn
        inside = jax.tree.leaves(
            list(eqn.params.values()),
            is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr"),
        )
        for value in inside:
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def faults(jaxpr: Any) -> list[str]:
    """Float32 products with rounded factors, and additions in no fixed order."""
    found = []
    for eqn in equations(jaxpr):
        dtypes = [v.aval.dtype for v in eqn.invars if hasattr(v.aval, "dtype")]
        if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
            asked = eqn.params["precision"]
            highest = asked is not None and set(asked) == {jax.lax.Precision.HIGHEST}
            if dtypes[0] == jnp.float32 and not highest:
                found.append(f"product {asked}")
        if eqn.primitive.name == "scatter-add" and dtypes[0] == jnp.float32:
            found += ["addition"] * (not eqn.params["unique_indices"])
    return found


def more() -> Iterator[Program]:
    """Programs of probes and of theory that no paper preset of `programs` runs."""
    study: Any = PcfgNonterminals.preset("smoke")
    spec = study.accuracy.setting.teacher_specs()[0]
    yield _of_probe("nonterminals", spec, study._probe(spec))
    model = MLP(d=6, hidden=(4,))
    key = jax.random.key(0)
    spectrum = SpectrumProbe(Parity(d=6, k=2), model)
    params = model.init(key)
    yield Program("spectrum", spectrum.measure, (params, key), 1)
    task, f = Parity(d=6, k=2), jnp.float32
    w, bias = jnp.ones((1, 4, 6), f), jnp.ones((1, 4), f)
    batch = task.sample(key, jnp.uint32(0), 8, split="distill")
    target = two_stage._targets(batch, (w[0], bias[0]))
    yield Program("sums", two_stage._sums, (batch.x, target, w[0], bias[0]), 1)

    def targets(w: Any, bias: Any) -> Any:
        return two_stage._targets(batch, (w, bias))

    yield Program("targets", targets, (w[0], bias[0]), 1)

    def second(w: Any, bias: Any) -> Any:
        return two_stage._second_stage(task, key, w, bias)

    yield Program("second stage", second, (w[0], bias[0]), 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpu", "tpu"])
def test_no_factor_is_rounded_and_no_sum_has_a_random_order(name: str) -> None:
    found = {}
    with assumed(name):
        for program in (*programs(""), *more()):
            traced = jax.jit(program.function).trace(*program.args)
            found[program.name] = faults(traced.jaxpr.jaxpr)
            if name == "tpu":  # whose compiler is not here
                text = traced.lower(lowering_platforms=("tpu",)).as_text()
                assert "stablehlo" in text and "triton" not in text
    assert len(found) > 25
    assert {name: f for name, f in found.items() if f} == {}


def test_faults_are_seen() -> None:
    def careless(table: Any, ids: Any) -> Any:
        return jax.grad(lambda t: (t[ids] @ t.T).sum())(table)

    args = jnp.ones((4, 3)), np.zeros(5, np.int32)
    found = faults(jax.make_jaxpr(careless)(*args).jaxpr)
    assert "addition" in found and "product None" in found
