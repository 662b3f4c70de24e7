"""The n-gram probe, on predictors whose context is known."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.errors import ConfigError
from sandbox.probes.ngram import NgramProbe
from sandbox.tasks.bayes_context import m_close, m_robust
from sandbox.tasks.grammar import load_grammar
from sandbox.tasks.masking import MaskedLM
from sandbox.types import Outputs

TASK = MaskedLM(grammar=load_grammar("cfg3b", start=("10", "11", "12")))
KEY = jax.random.key(3)


@dataclass(frozen=True)
class Looks:
    """Predicts from what it sees `offset` tokens away, or nothing.

    The logits are those of a table, by the token in sight there (hidden ones and those
    beyond the ends count as one more).
    """

    offset: int | None
    n_classes: int = 3

    def init(self, key: Any) -> Any:
        return {"table": jax.random.normal(key, (TASK.vocabulary.size + 1, 3))}

    def apply(self, params, x, *, key=None, taps=()):
        del key, taps
        none = TASK.vocabulary.size
        seen = jnp.where(x.visible & x.valid, x.ids, none)
        if self.offset is None:
            at = jnp.full_like(seen, none)
        else:
            at = jnp.roll(seen, -self.offset, 1)
            place = jnp.arange(seen.shape[1]) + self.offset
            inside = (place >= 1) & (place < seen.shape[1])
            at = jnp.where(inside, at, none)
        return Outputs(params["table"][at], {})

    def width_axes(self, params):
        return params


@pytest.fixture(scope="module")
def questions():
    probe = NgramProbe(task=TASK, model=Looks(None), strings=32, places=3)
    return jax.jit(probe.prepare)(KEY)


def measured(model, questions):
    probe = NgramProbe(task=TASK, model=model, strings=32, places=3)
    run = jax.jit(lambda p, q: probe.measure(p, KEY, q))
    values = run(model.init(jax.random.key(0)), questions)
    return {name: float(v) for name, v in values.items()}


def test_a_constant_predictor_uses_no_context(questions):
    out = measured(Looks(None), questions)
    for n in (2, 3, 4, 5):
        assert out[f"m_robust/{n}/mean"] == out[f"m_close/{n}/mean"] == 0.0
    p = np.asarray(jax.nn.softmax(Looks(None).init(jax.random.key(0))["table"][-1]))
    b = np.asarray(questions.exact)
    with np.errstate(divide="ignore", invalid="ignore"):
        kl = np.where(b > 0, b * np.log(b / p), 0).sum(-1)
    assert out["kl/all"] == pytest.approx(kl.mean(), rel=1e-5)
    assert out["kl/all_median"] == pytest.approx(np.median(kl), rel=1e-5)


@pytest.mark.parametrize(
    ("offset", "inside"),
    [(-1, {2, 3, 4, 5}), (1, {3, 4, 5}), (-2, {4, 5}), (2, {5}), (-3, set())],
)
def test_only_windows_that_hold_the_token_matter(questions, offset, inside):
    out = measured(Looks(offset), questions)
    for n in (2, 3, 4, 5):
        if n in inside:  # masking the window hides what it looks at, the rest does not
            assert out[f"m_robust/{n}/mean"] > 0.05
            assert out[f"m_close/{n}/mean"] == pytest.approx(0, abs=1e-6)
        else:
            assert out[f"m_robust/{n}/mean"] == pytest.approx(0, abs=1e-6)
            assert out[f"m_close/{n}/mean"] > 0.02


@pytest.mark.slow
def test_the_exact_predictors_are_those_of_the_grammar(questions):
    out = measured(Looks(None), questions)
    probe = NgramProbe(task=TASK, model=Looks(None), strings=32, places=3)
    at = probe.positions(questions.length)
    args = (TASK.arrays, questions.tokens, questions.length, at)
    for n in (2, 5):
        for name, fn in (("m_robust", m_robust), ("m_close", m_close)):
            v = np.asarray(fn(*args, n))
            assert out[f"exact/{name}/{n}/mean"] == pytest.approx(v.mean(), abs=1e-6)
            assert out[f"exact/{name}/{n}/median"] == pytest.approx(
                np.median(v), abs=1e-6
            )
            se = v.mean(1).std(ddof=1) / np.sqrt(32)
            assert out[f"exact/{name}/{n}/se"] == pytest.approx(se, abs=1e-6)
    best = np.take_along_axis(
        np.asarray(questions.exact),
        np.asarray(questions.exact).argmax(-1)[..., None],
        2,
    ).mean()
    assert out["exact/accuracy"] == pytest.approx(best, abs=0.15)


def test_positions_lie_in_every_string():
    probe = NgramProbe(task=TASK, model=Looks(None), places=4)
    length = jnp.arange(1, 40)
    at = np.asarray(probe.positions(length))
    for n, row in zip(np.asarray(length), at, strict=True):
        assert (row >= 0).all() and (row < n).all() and (np.diff(row) >= 0).all()
        if n >= 5:  # the widest window fits: 2 tokens on either side
            assert row[0] >= 2 and row[-1] <= n - 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"windows": ()}, "probe.windows"),
        ({"windows": (0,)}, "probe.windows"),
        ({"strings": 0}, "probe.strings"),
        ({"places": 0}, "probe.places"),
    ],
)
def test_impossible_probes_are_refused(changes, message):
    fields = {"task": TASK, "model": Looks(None)} | changes
    with pytest.raises(ConfigError, match=message):
        NgramProbe(**fields)
