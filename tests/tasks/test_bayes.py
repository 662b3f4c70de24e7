"""The exact predictor against sums over all derivations of small grammars.

Everything on the other side is written out: derivations are enumerated, weighed by the
evidence, and added up. Float64; both add the same few thousand positive products, so
1e-10 leaves room for nothing but rounding.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.errors import ConfigError
from sandbox.platforms import PLATFORMS, Platform
from sandbox.tasks import bayes
from sandbox.tasks.bayes_levels import level_posteriors, predict_next
from sandbox.tasks.channel import Channel, observed
from sandbox.tasks.grammar import Grammar, Rule, load_grammar, read_rules
from sandbox.tasks.grammar_arrays import compile_grammar
from sandbox.tasks.grammar_sampler import sample_strings
from sandbox.tasks.inside import chart_plan

TEXTS = {
    # Layered and ambiguous, one to three children, lengths 3 to 15.
    "layered": (
        """S -> A B [0.25] | B A [0.75]
        A -> C D [0.5] | D C [0.3] | D [0.2]
        B -> D C [0.6] | C C [0.4]
        C -> 'x' 'y' [0.5] | 'x' [0.5]
        D -> 'y' [0.7] | 'x' 'z' 'y' [0.3]""",
        ("S",),
    ),
    # Terminals at several depths, symbols at several levels, two starts, an alias T.
    "uneven": (
        """S -> A T A [0.5] | T U [0.5]
        U -> A A [0.9] | Y [0.1]
        A -> T [0.2] | Y Z [0.5] | Z [0.3]
        T -> 'x' [1.0]
        Y -> 'y' [0.6] | 'z' [0.4]
        Z -> 'z' [1.0]""",
        ("S", "A"),
    ),
}
TIGHT = {"rtol": 0, "atol": 1e-10}


class World:
    """A grammar with all of its derivations."""

    def __init__(self, brute, name: str) -> None:
        text, start = TEXTS[name]
        self.arrays = compile_grammar(
            Grammar(name, read_rules(text.encode(), name)[0], start)
        )
        self.v, self.n = len(self.arrays.terminals), self.arrays.longest
        found = brute.derivations(self.arrays.grammar)
        number = self.arrays.terminals.index
        self.p = np.array([p for p, _ in found])
        self.strings = [
            tuple(number(leaf[1:-1]) for leaf in brute.leaves(tree))
            for _, tree in found
        ]
        self.trees = [tree for _, tree in found]
        self.probability: dict[tuple[int, ...], float] = {}
        for p, s in zip(self.p, self.strings, strict=True):
            self.probability[s] = self.probability.get(s, 0.0) + p
        self.longest_first = sorted(self.probability, key=lambda s: (-len(s), s))

    def mass(self, weights: np.ndarray, length: int) -> np.ndarray:
        """Probability times weight of every derivation."""
        return np.array(
            [
                p * np.prod([weights[i, a] for i, a in enumerate(s)])
                if len(s) == length
                else 0.0
                for p, s in zip(self.p, self.strings, strict=True)
            ]
        )

    def at(self, mass: np.ndarray, i: int) -> np.ndarray:
        """Distribution of token i."""
        out = np.zeros(self.v)
        for q, s in zip(mass, self.strings, strict=True):
            if q:
                out[s[i]] += q
        return out / out.sum()

    def batch(self, strings) -> tuple[jax.Array, jax.Array]:
        """Tokens padded with -1, and lengths."""
        rows = np.full((len(strings), self.n), -1)
        for row, s in zip(rows, strings, strict=True):
            row[: len(s)] = s
        return jnp.asarray(rows), jnp.asarray([len(s) for s in strings])

    def some(self, k: int) -> list[tuple[int, ...]]:
        """k strings of different lengths, the longest among them."""
        every = self.longest_first
        return [every[i * (len(every) - 1) // (k - 1)] for i in range(k)]


@pytest.fixture(scope="module", params=sorted(TEXTS))
def world(request, brute):
    return World(brute, request.param)


@pytest.fixture(autouse=True)
def _double(x64):
    """float64 around every test here, the border tests excepted."""


def test_probability_of_every_string(world):
    strings = list(world.probability)
    tokens, length = world.batch(strings)
    # One that is none: the first token of each string doubled in place of the second.
    got = np.asarray(bayes.log_probability(world.arrays, tokens, length))
    want = np.log([world.probability[s] for s in strings])
    np.testing.assert_allclose(got, want, **TIGHT)
    assert np.exp(got).sum() == pytest.approx(1, abs=1e-10)
    changed = tokens.at[:, 0].set(0)
    known = {s: float(p) for s, p in world.probability.items()}
    got = np.exp(np.asarray(bayes.log_probability(world.arrays, changed, length)))
    want = [known.get((0, *s[1:]), 0.0) for s in strings]
    assert 0 < sum(w == 0 for w in want) < len(want)
    np.testing.assert_allclose(got, want, **TIGHT)


def test_posteriors_for_any_evidence(world):
    strings = world.some(4)
    _, length = world.batch(strings)
    w = 0.05 + np.random.default_rng(0).random((4, world.n, world.v))
    w[0, 0, 1] = 0.0
    w[1] *= 1e-30  # the scale of the weights cancels
    parts = (
        bayes.log_evidence(world.arrays, jnp.asarray(w), length),
        bayes.posterior(world.arrays, jnp.asarray(w), length),
        bayes.leave_one_out(world.arrays, jnp.asarray(w), length),
    )
    logs, after, without = map(np.asarray, parts)
    for b, n in enumerate(length.tolist()):
        mass = world.mass(w[b], n)
        assert logs[b] == pytest.approx(np.log(mass.sum()), abs=1e-10)
        for i in range(n):
            np.testing.assert_allclose(after[b, i], world.at(mass, i), **TIGHT)
            free = w[b].copy()
            free[i] = 1.0
            np.testing.assert_allclose(
                without[b, i], world.at(world.mass(free, n), i), **TIGHT
            )
        np.testing.assert_array_equal(after[b, n:], 0.0)
        np.testing.assert_array_equal(without[b, n:], 0.0)


def test_masked_prediction(world):
    strings = world.some(5)
    tokens, length = world.batch(strings)
    known = np.random.default_rng(1).random(tokens.shape) < 0.6
    got = np.asarray(bayes.predict_masked(world.arrays, tokens, known, length))
    for b, s in enumerate(strings):
        for i in range(len(s)):
            fits = {
                t: p
                for t, p in world.probability.items()
                if len(t) == len(s)
                and all(t[j] == s[j] for j in range(len(s)) if known[b, j] and j != i)
            }
            want = np.zeros(world.v)
            for t, p in fits.items():
                want[t[i]] += p / sum(fits.values())
            np.testing.assert_allclose(got[b, i], want, **TIGHT)


@pytest.mark.parametrize("hidden", [False, True])
def test_the_corruption_channel(world, hidden):
    """Against the sum over every string and every selection that could be."""
    v, mask, channel = world.v, world.v, Channel(rate=0.3, mask=0.7, random=0.2)

    def shown(clean: int, seen: int) -> float:  # of a selected token
        return 0.7 * (seen == mask) + 0.2 / v * (seen != mask) + 0.1 * (seen == clean)

    rng = np.random.default_rng(2)
    strings = [s for s in world.some(12) if len(s) <= 5][:3]
    tokens, length = world.batch(strings)
    seen, selected = np.array(tokens), rng.random(tokens.shape) < 0.5
    selected[:, 0] = True
    for b, i in zip(*np.nonzero(selected), strict=True):
        seen[b, i] = (mask, rng.integers(v), seen[b, i])[rng.integers(3)]
    got = np.asarray(
        bayes.predict_corrupted(
            world.arrays,
            jnp.asarray(seen),
            length,
            channel,
            hidden=jnp.asarray(selected) if hidden else None,
        )
    )
    for b, s in enumerate(strings):
        n = len(s)
        for i in np.flatnonzero(selected[b, :n]):
            want = np.zeros(v)
            for t, p in world.probability.items():
                if len(t) != n:
                    continue
                for pattern in itertools.product((False, True), repeat=n):
                    if not pattern[i]:
                        continue
                    if hidden and pattern != tuple(selected[b, :n]):
                        continue
                    q = p
                    for j in range(n):
                        q *= 0.3 if pattern[j] else 0.7
                        if not pattern[j]:
                            q *= t[j] == seen[b, j]
                        elif not hidden or j == i:
                            q *= shown(t[j], seen[b, j])
                    want[t[i]] += q
            np.testing.assert_allclose(got[b, i], want / want.sum(), **TIGHT)


def test_channel_shows_what_it_says(key):
    """Shares of 30,000 draws, within five standard errors."""
    channel, clean = Channel(rate=0.3, mask=0.8, random=0.1), 1
    seen, selected = channel.corrupt(key, jnp.full((300, 100), clean), 3)
    counts = np.bincount(np.asarray(seen).ravel(), minlength=4) / seen.size
    np.testing.assert_allclose(
        channel.unknown(3)[:, clean], [0.01, 0.74, 0.01, 0.24], atol=1e-12
    )
    assert np.abs(counts - channel.unknown(3)[:, clean]).max() < 5 * 0.5 / 30_000**0.5
    chosen = np.asarray(seen)[np.asarray(selected)]
    counts = np.bincount(chosen, minlength=4) / chosen.size
    assert np.abs(counts - channel.selected(3)[:, clean]).max() < 2.5 / 8500**0.5
    assert (np.asarray(seen)[~np.asarray(selected)] == clean).all()


@pytest.mark.parametrize(
    ("field", "value"), [("rate", 1.5), ("mask", -0.1), ("random", 0.3)]
)
def test_impossible_channels_are_refused(field, value):
    with pytest.raises(ConfigError, match=f"channel.*{field}"):
        Channel(**{field: value})


def test_nonterminals_and_boundaries_of_every_level(world, brute):
    strings = world.some(3)
    tokens, length = world.batch(strings)
    known = np.random.default_rng(3).random(tokens.shape) < 0.5
    w = np.array(observed(tokens, jnp.asarray(known), world.v))
    got = level_posteriors(world.arrays, jnp.asarray(w), length)
    levels, names = world.arrays.n_levels, world.arrays.symbols
    for b, n in enumerate(length.tolist()):
        mass = world.mass(w[b], n)
        symbols = np.zeros((levels, world.n, len(names)))
        ends = np.zeros((levels, world.n))
        for q, tree in zip(mass / mass.sum(), world.trees, strict=True):
            if q:
                plain = without_alias(tree)
                over, last = brute.labels(plain, levels)
                for level, i in itertools.product(range(levels), range(n)):
                    name = over[level][i]
                    place = names.index(name.strip("'"))
                    symbols[level, i, place] += q
                    ends[level, i] += q * last[level][i]
        np.testing.assert_allclose(got.symbols[b], symbols, **TIGHT)
        np.testing.assert_allclose(got.boundaries[b], ends, **TIGHT)


def without_alias(tree):
    """T and Z of the uneven grammar stand for their terminals; see `grammar_arrays`."""
    symbol, children = tree
    if symbol == "T":
        return children[0]
    return symbol, tuple(without_alias(c) for c in children)


def test_next_token_and_end(world):
    strings = world.some(6)
    tokens, length = world.batch(strings)
    got = np.asarray(predict_next(world.arrays, tokens, length))
    assert got.shape == (6, world.n + 1, world.v + 1)
    for b, s in enumerate(strings):
        for t in range(len(s) + 1):
            want = np.zeros(world.v + 1)
            for other, p in world.probability.items():
                if other[:t] == s[:t]:
                    want[other[t] if len(other) > t else world.v] += p
            np.testing.assert_allclose(got[b, t], want / want.sum(), **TIGHT)
        np.testing.assert_array_equal(got[b, len(s) + 1 :], 0.0)


def test_impossible_evidence_is_no_guess(world):
    """As many rows as in the tests above, whose programs serve here too."""
    _, length = world.batch(world.some(4))
    nothing = jnp.zeros((4, world.n, world.v))
    assert np.isnan(bayes.posterior(world.arrays, nothing, length)[0, 0]).all()
    assert np.asarray(bayes.log_evidence(world.arrays, nothing, length))[0] == -np.inf
    tokens, length = world.batch(world.some(6))
    bad = jnp.full_like(tokens, world.arrays.terminals.index("y"))
    assert np.isnan(predict_next(world.arrays, bad, length)[0, 3]).all()


# ------------------------------------------------------- grammars of the package
@pytest.fixture(scope="module")
def cfg3b():
    return compile_grammar(load_grammar("cfg3b", start=("13", "14")))


def draw(arrays, n, seed=0):
    from sandbox.tasks.bayes_context import draw_strings

    return draw_strings(arrays, jax.random.key(seed), 0, n)


def test_probability_is_the_sum_over_nltk_parses():
    """cfg3i has strings with several trees; the second of these does."""
    from importlib import resources

    from nltk import ChartParser
    from nltk.grammar import PCFG, Nonterminal

    file = resources.files("sandbox.tasks") / "grammars" / "cfg3i.pcfg"
    arrays = compile_grammar(load_grammar("cfg3i", start=("16",)))
    theirs = PCFG.fromstring(file.read_text())
    rule = {(p.lhs(), p.rhs()): p.prob() for p in theirs.productions()}
    parser = ChartParser(PCFG(Nonterminal("16"), theirs.productions()))
    strings = draw(arrays, 2, seed=1)
    got = np.exp(bayes.log_probability(arrays, strings.tokens, strings.length))
    several = 0
    for b, n in enumerate(strings.length.tolist()):
        words = [arrays.terminals[t] for t in np.asarray(strings.tokens)[b, :n]]
        trees = [
            np.prod([rule[p.lhs(), p.rhs()] for p in tree.productions()])
            for tree in parser.parse(words)
        ]
        several += len(trees) > 1
        assert got[b] == pytest.approx(sum(trees), rel=1e-10)
    assert several > 0


@pytest.mark.long
def test_next_tokens_multiply_to_the_string(cfg3b):
    """Two computations without a line in common but the chart."""
    strings = draw(cfg3b, 20)
    p = np.asarray(predict_next(cfg3b, strings.tokens, strings.length))
    logs = np.asarray(bayes.log_probability(cfg3b, strings.tokens, strings.length))
    for b, n in enumerate(strings.length.tolist()):
        path = [p[b, t, strings.tokens[b, t]] for t in range(n)] + [p[b, n, -1]]
        assert np.log(path).sum() == pytest.approx(logs[b], abs=1e-10)


@pytest.mark.slow
def test_true_nonterminals_are_found_where_they_are_certain(cfg3b):
    strings = draw(cfg3b, 16)
    w = observed(strings.tokens, strings.valid, 3)
    got = level_posteriors(cfg3b, w, strings.length)
    valid = np.asarray(strings.valid)[:, None] & np.ones((1, cfg3b.n_levels, 1), bool)
    symbols = np.clip(strings.symbols, 0, None)[..., None].astype(int)
    true = np.take_along_axis(np.asarray(got.symbols), symbols, -1)[..., 0][valid]
    ends = np.asarray(got.boundaries)[valid]
    truth = np.asarray(strings.boundaries)[valid]
    # cfg3b is unambiguous: given the whole string, everything is certain.
    np.testing.assert_allclose(true, 1.0, **TIGHT)
    np.testing.assert_allclose(ends, truth, **TIGHT)


def test_rows_do_not_depend_on_how_many_come_at_once(monkeypatch, x64):
    arrays = compile_grammar(load_grammar("cfg3b", start=("7", "8", "9")))
    drawn = sample_strings(arrays, jax.random.key(0), 0, 7)
    known = jnp.ones(drawn.tokens.shape, bool)
    args = arrays, drawn.tokens, known, drawn.length
    monkeypatch.setitem(PLATFORMS, "cpu", Platform(cells=10**9))
    expected = bayes.predict_masked(*args)
    cells = chart_plan(arrays).cells(drawn.tokens.shape[1])
    # 7 rows are padded to 9.
    monkeypatch.setitem(PLATFORMS, "cpu", Platform(cells=3 * cells))
    bayes.leave_one_out.__wrapped__.clear_cache()
    np.testing.assert_allclose(bayes.predict_masked(*args), expected, rtol=1e-12)


@pytest.mark.slow
def test_a_whole_string_for_a_caller_without_float64():
    """Its Z is far below the smallest float32, so float64 was used inside."""
    arrays = compile_grammar(load_grammar("cfg3b"))
    channel = Channel()
    with jax.enable_x64(False):

        @jax.jit
        def predict(tokens, length):
            def step(carry, key):
                seen, _ = channel.corrupt(key, tokens, 3)
                p = bayes.predict_corrupted(arrays, seen, length, channel)
                return carry, p

            return jax.lax.scan(step, 0, jax.random.split(jax.random.key(1), 2))[1]

        strings = draw(arrays, 1, seed=3)
        p = predict(strings.tokens, strings.length)[1, 0]
        assert p.dtype == jnp.float32
    p, n = np.asarray(p), int(strings.length[0])
    assert n > 160 and np.isfinite(p).all()
    np.testing.assert_allclose(p[:n].sum(-1), 1.0, atol=3e-7)
    own = np.take_along_axis(p[:n], np.asarray(strings.tokens)[0, :n, None], 1)
    assert own.mean() > 0.9


def test_float32_results_are_the_rounded_ones(world):
    tokens, length = world.batch(world.some(5))
    known = jnp.arange(world.n)[None, :] % 3 > jnp.zeros((5, 1))
    want = bayes.predict_masked(world.arrays, tokens, known, length)
    assert want.dtype == jnp.float64
    with jax.enable_x64(False):
        args = [jnp.asarray(np.asarray(x)) for x in (tokens, known, length)]
        got = jax.jit(lambda *x: bayes.predict_masked(world.arrays, *x))(*args)
        assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, np.asarray(want, np.float32))


# ------------------------------------------------------------- beyond float64's range

PAIRS = {("a", "a"): 1e-9, ("a", "b"): 3e-9, ("b", "c"): 1 - 4e-9}
"""Probabilities of the pairs that long strings consist of."""


def doubling(levels, last):
    """2^levels independent draws from the rules of the last level."""
    rules = [Rule(f"L{i}", (f"L{i + 1}",) * 2, 1.0) for i in range(levels)]
    rules += [Rule(f"L{levels}", right, p) for right, p in last]
    return compile_grammar(Grammar("doubling", tuple(rules), ("L0",)))


@pytest.fixture(scope="module")
def long():
    """512 independent pairs; rare ones first, so that halves differ by 5,000 nats."""
    last = [(tuple(f"'{x}'" for x in pair), p) for pair, p in PAIRS.items()]
    arrays = doubling(9, last)
    words = [("a", "a")] * 255 + [("a", "b")] + [("b", "c")] * 256
    number = arrays.terminals.index
    tokens = jnp.asarray([[number(w) for pair in words for w in pair]])
    return arrays, tokens, jnp.asarray([1024])


def test_a_long_string_has_the_probability_of_its_pairs(long, x64):
    exact = 255 * np.log(1e-9) + np.log(3e-9) + 256 * np.log1p(-4e-9)
    np.testing.assert_allclose(bayes.log_probability(*long), [exact], rtol=1e-13)


def test_tokens_of_long_strings_are_predicted_from_their_pairs(long, x64):
    arrays, tokens, length = long
    known = jnp.ones(tokens.shape, bool)
    p = np.asarray(bayes.predict_masked(arrays, tokens, known, length))[0]
    a, b, c = map(arrays.terminals.index, "abc")
    expected = np.zeros((1024, 3))
    expected[:512:2, a] = 1
    expected[1:512:2, [a, b]] = 0.25, 0.75  # after an a
    expected[512::2, b] = expected[513::2, c] = 1
    np.testing.assert_allclose(p, expected, atol=1e-10)


@pytest.mark.long
def test_next_tokens_of_long_strings(long, x64):
    arrays, tokens, length = long
    p = np.asarray(predict_next(arrays, tokens, length))[0]
    a, b, c = map(arrays.terminals.index, "abc")
    expected = np.zeros((1025, 4))
    expected[:1024:2, [a, b]] = 4e-9, 1 - 4e-9
    expected[1:512:2, [a, b]] = 0.25, 0.75
    expected[513::2, c] = expected[1024, 3] = 1
    np.testing.assert_allclose(p, expected, rtol=1e-10, atol=1e-20)


@pytest.mark.long
def test_levels_of_long_strings(long, x64):
    arrays, tokens, length = long
    weights = observed(tokens, jnp.ones(tokens.shape, bool), 3)
    found = level_posteriors(arrays, weights, length)
    for level in range(10):
        over = np.asarray(found.symbols)[0, level, :, arrays.symbols.index(f"L{level}")]
        np.testing.assert_allclose(over, 1, atol=1e-10)
        ends = np.flatnonzero(np.asarray(found.boundaries)[0, level] > 0.5)
        assert list(ends) == list(range(1024 // 2**level - 1, 1024, 1024 // 2**level))


def test_long_strings_that_are_none(long, x64):
    arrays, tokens, length = long
    tokens = tokens.at[0, 700].set(arrays.terminals.index("a"))
    assert bayes.log_probability(arrays, tokens, length)[0] == -np.inf


@pytest.mark.slow
def test_a_lexicon_of_a_thousand_words(x64):
    arrays = doubling(7, [((f"'w{i}'",), 0.001) for i in range(1000)])
    tokens, length = jnp.arange(128)[None], jnp.asarray([128])
    log_p = bayes.log_probability(arrays, tokens, length)
    np.testing.assert_allclose(log_p, [-128 * np.log(1000)], rtol=1e-13)
    p = bayes.predict_masked(arrays, tokens, jnp.ones((1, 128), bool), length)
    np.testing.assert_allclose(p, 0.001, rtol=1e-12)
