"""What must hold on a device, compared with a CPU where that makes sense.

    python -m pytest tests/gpu -m gpu

Runs on the device that jax finds; on a CPU the tests check themselves.
"""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.distill.strategy import Strategy
from sandbox.errors import Interrupted
from sandbox.models.attention import attend
from sandbox.models.dropout import Words, drop
from sandbox.models.mlp import MLP
from sandbox.models.transformer import Transformer
from sandbox.tasks.grammar import load_grammar
from sandbox.tasks.masking import MaskedLM
from sandbox.tasks.parity import Parity
from sandbox.train.loop import fit
from sandbox.train.optim import SGD, Adam, LearningRate
from sandbox.train.progress import Silent
from sandbox.train.run import folder_of
from sandbox.train.spec import RunSpec, Stop
from tests.models.test_attention_kernel import draw
from tests.train.test_engines import ENGINES, EQUAL, assert_close, make_teachers, train

pytestmark = [pytest.mark.gpu, pytest.mark.long]

STRINGS = MaskedLM(grammar=load_grammar("cfg3b", start=("10", "11", "12")))
PLAIN: dict[str, Any] = dict(
    kind="teacher", strategies=(Strategy(name="ce"),), eval_points=64
)
RUNS = {
    "blocked": RunSpec(
        **PLAIN,
        task=Parity(d=10, k=2),
        model=MLP(d=10, hidden=(64,)),
        n_seeds=2,
        block=16,
        eval_every=64,
        checkpoint_every=128,
        optimizer=SGD(lr=LearningRate(peak=0.1)),
        stop=Stop(max_samples=512),
    ),
    "transformer": RunSpec(
        **PLAIN,
        task=STRINGS,
        model=Transformer(
            positions=STRINGS.positions, layers=1, heads=2, head_dim=4, dropout=0.1
        ),
        batch_size=8,
        block=8,
        eval_every=64,
        checkpoint_every=64,
        optimizer=Adam(lr=LearningRate(peak=0.02), clip=1.0),
        stop=Stop(max_samples=192),
    ),
}


def on_both(f: Callable[[], Any]) -> tuple[Any, Any]:
    """What `f` gives on the device and on the CPU."""
    cpu = jax.devices("cpu")[0]
    out = []
    for device in (jax.devices()[0], cpu):
        with jax.default_device(device):
            out.append(jax.tree.map(np.asarray, jax.jit(f)()))
    return out[0], out[1]


@pytest.mark.parametrize(
    "name",
    ["two classes, one mixed target", "four classes, reverse, warm-up and cosine"],
)
def test_blocked_equals_generic(x64: None, name: str) -> None:
    """To 1e-11, as derived in tests/train/test_engines.py."""
    out = []
    for engine in ENGINES:
        spec = replace(EQUAL[name], engine=engine)
        params, state, e = train(spec, (3,), teacher=make_teachers(spec, 1))
        assert (e.first_bad(state) == -1).all()
        out.append((params, e.read_loss(state)[0]))
    assert_close(*out, 1e-11)


def test_the_same_strings_and_bits_as_on_a_cpu() -> None:
    for task in (STRINGS, Parity(d=100, k=6)):
        found, expected = on_both(
            lambda task=task: task.sample(jax.random.key(3), 512, 128, split="train")
        )
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_the_same_entries_are_dropped_as_on_a_cpu() -> None:
    def masks() -> Any:
        words = Words(jax.random.key(5), 4 * (75 + 33))
        rows, columns = words.take(4, 75), words.take(4, 33)
        return drop(jnp.ones((4, 75, 33)), rows, columns, rate=0.1)

    found, expected = on_both(masks)
    np.testing.assert_array_equal(found, expected)
    assert 0.05 < (found == 0).mean() < 0.15


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_the_same_bits_after_an_interruption(tmp_path: Path, name: str) -> None:
    spec = RUNS[name]

    class Stopped(Silent):
        def update(self, done: int, note: str) -> None:
            if done == 128:
                os.kill(os.getpid(), signal.SIGTERM)

    sums = []
    for root in (tmp_path / "whole", tmp_path / "stopped"):
        if root.name == "stopped":
            with pytest.raises(Interrupted):
                fit(spec, root=root, progress=Stopped(), chunk_samples=1)
            assert not folder_of(spec, root).complete
        files = fit(spec, root=root, progress=Silent()).folder.manifest()
        sums.append(
            {n: e["sha256"] for n, e in files.items() if n != "provenance.json"}
        )
    assert sums[0] == sums[1]


@pytest.mark.parametrize(("n", "causal"), [(75, False), (64, True), (512, False)])
def test_attention_kernels_give_the_same_numbers(n: int, causal: bool) -> None:
    if jax.default_backend() != "gpu":
        pytest.skip("interpreted kernels are tested in tests/models")
    q, k, v, g, visible, words = draw(n)

    def pull(triton: bool) -> Any:
        how = {"causal": causal, "words": words, "rate": 0.1, "triton": triton}
        value, back = jax.vjp(lambda *a: attend(*a, visible, **how), q, k, v)
        return value, *back(g)

    for a, b in zip(pull(True), pull(False), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("m", [100, 50_000])
def test_the_recurrence_kernel_trains_as_the_engine_without(m: int) -> None:
    """In one program, and in 98 that wait for one another; twice the same bits."""
    if jax.default_backend() != "gpu":
        pytest.skip("interpreted kernels are tested in tests/train")
    spec = replace(
        RUNS["blocked"],
        model=MLP(d=10, hidden=(m,)),
        n_seeds=1,
        optimizer=SGD(lr=LearningRate(peak=0.01)),
    )
    params = []
    for engine in ("online_sgd", "online_triton", "online_triton"):
        found, state, e = train(replace(spec, engine=engine), (3,), teacher=None)
        assert (e.first_bad(state) == -1).all()
        params.append(found)
    assert_close(*params[:2], 1e-5)
    jax.tree.map(np.testing.assert_array_equal, *params[1:])
