"""Windows, M_robust and M_close of the exact predictor, and its accuracy ceiling.

Against enumeration of all strings, in float64; 1e-10 is rounding.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.errors import ConfigError
from sandbox.tasks import bayes_context as context
from sandbox.tasks.channel import Channel
from sandbox.tasks.grammar import load_grammar
from sandbox.tasks.grammar_arrays import compile_grammar
from sandbox.tasks.windows import window_mask

TIGHT = {"rtol": 0, "atol": 1e-10}
WINDOWS = {1: "....i....", 2: "...wi....", 3: "...wiw...", 4: "..wwiw...",
           5: "..wwiww..", 6: ".wwwiww..", 7: ".wwwiwww."}  # fmt: skip


@pytest.fixture(autouse=True)
def _double(x64):
    """float64 around every test here."""


@pytest.fixture(scope="module")
def arrays():
    return compile_grammar(load_grammar("cfg3f", start=("11", "12")))


@pytest.fixture(scope="module")
def language(arrays, brute):
    """String -> probability."""
    number, out = arrays.terminals.index, {}
    for p, tree in brute.derivations(arrays.grammar):
        s = tuple(number(leaf[1:-1]) for leaf in brute.leaves(tree))
        out[s] = out.get(s, 0.0) + p
    return out


def conditional(language, string, seen, i, v=3):
    """P(token i | length, the tokens at `seen` other than i), by enumeration."""
    out = np.zeros(v)
    for t, p in language.items():
        if len(t) == len(string) and all(t[j] == string[j] for j in seen if j != i):
            out[t[i]] += p
    return out / out.sum()


@pytest.mark.parametrize(("n", "picture"), WINDOWS.items())
def test_windows_are_the_published_ones(n, picture):
    np.testing.assert_array_equal(window_mask(4, n, 9), [c != "." for c in picture])
    traced = jax.jit(lambda i: window_mask(i, n, 9))(jnp.asarray([4, 0]))
    np.testing.assert_array_equal(traced[0], [c != "." for c in picture])
    np.testing.assert_array_equal(traced[1], [c != "." for c in f"{picture[4:]}...."])


def test_empty_windows_are_refused():
    with pytest.raises(ConfigError, match="at least 1 token, got n=0"):
        window_mask(4, 0, 9)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_context_measures_are_those_of_enumeration(arrays, language, n):
    drawn = context.draw_strings(arrays, jax.random.key(0), 0, 6)
    positions = np.stack([np.arange(arrays.longest)] * 6)
    args = (arrays, drawn.tokens, drawn.length, jnp.asarray(positions))
    alone, away, near = (
        np.asarray(f(*args))
        for f in (
            context.predict_alone,
            lambda *a: context.predict_without_window(*a, n),
            lambda *a: context.predict_from_window(*a, n),
        )
    )
    robust = np.asarray(context.m_robust(*args, n))
    close = np.asarray(context.m_close(*args, n))
    seen = np.zeros(2)
    for b, m in enumerate(drawn.length.tolist()):
        string = tuple(np.asarray(drawn.tokens)[b, :m].tolist())
        for i in range(m):
            window = [j for j in range(i - n // 2, i + (n - 1) // 2 + 1) if 0 <= j < m]
            rest = [j for j in range(m) if j not in window]
            p = conditional(language, string, range(m), i)
            q = conditional(language, string, rest, i)
            r = conditional(language, string, window, i)
            np.testing.assert_allclose(alone[b, i], p, **TIGHT)
            np.testing.assert_allclose(away[b, i], q, **TIGHT)
            np.testing.assert_allclose(near[b, i], r, **TIGHT)
            tv = [np.maximum(p - x, 0).sum() for x in (q, r)]
            np.testing.assert_allclose([robust[b, i], close[b, i]], tv, **TIGHT)
            seen += np.array(tv) > 0.05
        np.testing.assert_array_equal(near[b, m:], 0.0)
        np.testing.assert_array_equal(robust[b, m:], 0.0)
    assert (seen > 0).all()  # the measures are not trivially zero


def test_the_smallest_and_the_largest_window(arrays):
    drawn = context.draw_strings(arrays, jax.random.key(1), 0, 6)
    at = jnp.asarray(np.stack([np.arange(arrays.longest)] * 6))
    args = (arrays, drawn.tokens, drawn.length, at)
    everything = 2 * arrays.longest + 1
    assert float(context.m_robust(*args, 1).max()) < 1e-12
    assert float(context.m_close(*args, everything).max()) < 1e-12
    nothing = context.predict_without_window(*args, everything)
    lone = context.predict_from_window(*args, 1)
    np.testing.assert_allclose(nothing, lone, **TIGHT)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["alone", "visible", "hidden"])
def test_ceiling_is_the_accuracy_of_the_best_guess(arrays, language, kind):
    """The mean largest posterior against exact accuracies, within four errors."""
    channel = None if kind == "alone" else Channel(rate=0.4, mask=0.9, random=0.05)
    got = context.accuracy_ceiling(
        arrays, jax.random.key(2), 2000, channel, hidden=kind == "hidden"
    )
    assert 0 < got.standard_error < 0.02 and got.strings >= 2000
    if kind == "alone":
        tokens = sum(p * len(s) for s, p in language.items())
        best = sum(
            p * conditional(language, s, range(len(s)), i).max()
            for s, p in language.items()
            for i in range(len(s))
        )
        assert got.scored > 2000 * 4
        assert abs(got.accuracy - best / tokens) < 4 * got.standard_error
        return
    # The guess of the predictor is right as often as it says, on other strings.
    drawn = context.draw_strings(arrays, jax.random.key(3), 0, 2000)
    seen, selected = channel.corrupt(jax.random.key(4), drawn.tokens, 3)
    hidden = selected if kind == "hidden" else None
    p = context.predict_corrupted(arrays, seen, drawn.length, channel, hidden=hidden)
    scored = np.asarray(selected & drawn.valid)
    right = np.asarray(p.argmax(-1) == drawn.tokens)[scored]
    error = np.hypot(got.standard_error, 1.5 * right.std() / len(right) ** 0.5)
    assert abs(got.accuracy - right.mean()) < 4 * error
    assert right.mean() < 0.98


@pytest.mark.slow
def test_more_evidence_is_never_worse(arrays):
    """Laws of information, on the same strings and corruptions."""

    def ceiling(rate, hidden, mask=1.0):
        channel = Channel(rate=rate, mask=mask, random=1 - mask)
        return context.accuracy_ceiling(
            arrays, jax.random.key(5), 512, channel, hidden=hidden
        )

    def clearly_more(one, other):
        error = np.hypot(one.standard_error, other.standard_error)
        return one.accuracy - other.accuracy > 4 * error

    few, many = ceiling(0.1, False), ceiling(0.6, False)
    assert clearly_more(few, many)
    # Where MASK alone hides, hidden and visible say the same.
    assert ceiling(0.6, True).accuracy == pytest.approx(many.accuracy, abs=1e-10)
    # Where every selected token is a random one, hiding them says which they are.
    assert clearly_more(ceiling(0.4, True, mask=0.0), ceiling(0.4, False, mask=0.0))


def test_ceilings_without_scored_positions_are_refused(arrays, key):
    with pytest.raises(ConfigError, match=r"channel\.rate is 0"):
        context.accuracy_ceiling(arrays, key, 10, Channel(rate=0.0))
    with pytest.raises(ConfigError, match="at least 1 string, got 0"):
        context.accuracy_ceiling(arrays, key, 0)
