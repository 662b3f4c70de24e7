"""Rows of strings: what is masked, what is scored, and that nothing else moves them."""

from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sandbox.distill.strategy import Strategy
from sandbox.errors import ConfigError
from sandbox.models.transformer import Transformer
from sandbox.store.config import from_json, to_json
from sandbox.tasks.base import SPLITS, STREAM, SequenceTask, Task, is_sequence_task
from sandbox.tasks.grammar import Grammar, Rule, load_grammar
from sandbox.tasks.grammar_sampler import Strings, sample_strings, to_tree
from sandbox.tasks.masking import MaskedLM
from sandbox.tasks.next_token import NextToken
from sandbox.tasks.parity import Parity
from sandbox.tasks.sequences import EDGE_GAP, GrammarTask, Rows, Vocabulary
from sandbox.train.run import BUILT_IN
from sandbox.train.spec import RunSpec, Stop
from sandbox.types import Batch, Tokens

TINY = load_grammar("cfg3b", start=("10", "11", "12"))  # 7 to 9 tokens
SMALL = load_grammar("cfg3b", start=("13", "14", "15"))  # 14 to 27 tokens
MASKED = MaskedLM(grammar=SMALL)
ALL = MaskedLM(grammar=TINY, rate=1.0, mask=0.5, random=0.5, hidden=False)
NEXT, END = NextToken(grammar=SMALL), NextToken(grammar=SMALL, level=1)
REST = NextToken(grammar=TINY, level=0)


KEY = jax.random.key(7)
ROWS = 2000


@cache
def program(task: GrammarTask, n: int, split: str) -> Any:
    return jax.jit(partial(task.sample, n=n, split=split))


@cache
def draw(task: GrammarTask, t0: int = 0, n: int = ROWS, split: str = "train") -> Batch:
    """Rows on the host; the sampler takes seconds to compile, so they are shared."""
    return jax.device_get(program(task, n, split)(KEY, t0=jnp.uint32(t0)))


@cache
def strings() -> Strings:
    """The first rows of the sampler's own stream, for the larger grammar."""
    stream = jax.random.fold_in(jax.random.fold_in(KEY, STREAM), SPLITS.index("train"))
    one = jax.jit(partial(sample_strings, MASKED.arrays, n=ROWS))
    return jax.device_get(one(stream, t0=jnp.uint32(0)))


def within(count: Any, n: Any, p: float) -> None:
    """A binomial count lies within 5 standard deviations of its mean."""
    gap = np.abs(np.asarray(count) - n * p)
    assert (gap <= 5 * np.sqrt(n * p * (1 - p))).all(), (count, n, p)


# --------------------------------------------------------------------- any task


@pytest.mark.parametrize("task", [MASKED, NEXT], ids=lambda t: type(t).__name__)
def test_strings_are_those_of_the_sampler(task: GrammarTask) -> None:
    """A row is BOS, the string, PAD; labels are its tokens, numbered alike."""
    batch, s = draw(task), strings()
    v, n = task.vocabulary, task.positions
    assert task.arrays.terminals == ("1", "2", "3") and n == s.tokens.shape[1] + 1
    assert (v.bos, v.eos, v.pad, v.mask, v.size) == (3, 4, 5, 6, 8)
    clean = np.full((ROWS, n), v.pad)
    clean[:, 0] = v.bos
    clean[:, 1:][s.valid] = s.tokens[s.valid]
    np.testing.assert_array_equal(batch.x.valid.sum(1), s.length + 1)
    np.testing.assert_array_equal(batch.x.valid[:, 1:], s.valid)
    assert batch.x.valid[:, 0].all()
    for name, first in (("symbols", -1), ("boundaries", False)):
        np.testing.assert_array_equal(batch.aux[name][..., 1:], getattr(s, name))
        assert (batch.aux[name][..., 0] == first).all()
    label = clean if isinstance(task, MaskedLM) else np.roll(clean, -1, 1)
    scored = batch.weight > 0
    assert scored.any() and (batch.y[scored] == label[scored]).all()
    assert ((batch.y >= 0) & (batch.y < task.n_classes)).all()
    if isinstance(task, MaskedLM):
        np.testing.assert_array_equal(batch.x.ids[~scored], clean[~scored])
    else:
        np.testing.assert_array_equal(batch.x.ids, clean)


@pytest.mark.parametrize("task", [MASKED, END], ids=lambda t: type(t).__name__)
def test_rows_do_not_depend_on_the_call(task: GrammarTask) -> None:
    whole = draw(task)
    for t0 in (0, 3, ROWS - 7):
        expected = jax.tree.map(lambda a, t0=t0: a[t0 : t0 + 7], whole)
        jax.tree.map(np.testing.assert_array_equal, draw(task, t0, 7), expected)
    late = draw(task, 2**32 - 7, 7)
    assert (late.x.ids != whole.x.ids[:7]).any()


@pytest.mark.long
def test_jit_and_vmap_change_nothing() -> None:
    """Of a whole task; what masking adds to it is compared in the next test."""
    task = REST
    assert isinstance(task, Task) and isinstance(task, SequenceTask)
    assert is_sequence_task(task) and not is_sequence_task(Parity(d=4, k=2))
    assert hash(task) == hash(replace(task))
    keys = jax.random.split(jax.random.key(1), 2)

    def one(key: jax.Array) -> Batch:
        return task.sample(key, jnp.uint32(9), 6, split="eval")

    fast = jax.jit(jax.vmap(one))(keys)
    slow = one(keys[1])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b), fast, slow)
    assert fast.x.ids.dtype == fast.y.dtype == jnp.int32
    assert fast.weight.dtype == jnp.float32
    with jax.numpy_dtype_promotion("strict"):
        batch = jax.eval_shape(one, keys[0])
        shape = (6, task.positions, task.n_classes)
        logits = jax.ShapeDtypeStruct(shape, jnp.float32)
        jax.eval_shape(task.metrics, logits, batch)


def by_hand(task: MaskedLM) -> tuple[Tokens, np.ndarray]:
    """What a task makes of the strings of `NEXT`, without a compiled sampler."""
    plain = draw(NEXT)
    inner = plain.x.valid.copy()
    inner[:, 0] = False
    rows = Rows(plain.x.ids, plain.x.valid, inner, **plain.aux)
    rows = jax.tree.map(jnp.asarray, rows)
    return jax.device_get(task._batch(rows, KEY, 0, ROWS, "train"))


def test_masks_are_the_same_without_jit() -> None:
    x, selected = by_hand(MASKED)
    batch = draw(MASKED)
    jax.tree.map(np.testing.assert_array_equal, x, batch.x)
    np.testing.assert_array_equal(selected, batch.weight > 0)


def test_splits_and_keys_share_no_row() -> None:
    """Random words of 64 bits each; and strings of other splits are other strings."""
    words = [
        np.asarray(ALL.words(k, jnp.uint32(0), 50, split=split, count=2))
        for k in (KEY, jax.random.key(1))
        for split in SPLITS
    ]
    rows = np.concatenate(words).reshape(-1, 2 * ALL.positions)
    assert len(np.unique(rows[:, :2], axis=0)) == len(rows) == 500
    one, other = draw(NEXT, 0, 500, "distill").x.ids, draw(NEXT).x.ids[:500]
    assert (one == other).all(1).mean() < 0.02  # strings of 10 bits: chance is 0.001
    with pytest.raises(ConfigError, match="split must be one of train, distill"):
        ALL.sample(KEY, 0, 1, split="test")


def test_tasks_of_one_key_see_the_same_strings() -> None:
    masked, plain = draw(MASKED), draw(NEXT)
    kept = masked.weight == 0
    np.testing.assert_array_equal(masked.x.ids[kept], plain.x.ids[kept])
    np.testing.assert_array_equal(masked.y[:, 1:], plain.y[:, :-1])
    jax.tree.map(np.testing.assert_array_equal, masked.aux, plain.aux)


@pytest.mark.parametrize(
    "start", [("10", "11", "12"), ("13", "14", "15"), ("16", "17", "18"), ("22",)]
)
def test_edges_hold_their_share_of_the_strings(start: tuple[str, ...]) -> None:
    """Increasing to N, apart, and each the shortest that holds its quantile."""
    task = NextToken(grammar=load_grammar("cfg3b", start=start))
    edges, n = task.edges, task.positions
    assert edges[-1] == n == task.arrays.longest + 1 and len(edges) <= 4
    assert all(b - a >= max(n / 12, EDGE_GAP) for a, b in pairwise(edges))
    assert len(edges) > 1 or n < 3 * EDGE_GAP
    holds = np.cumsum(task.arrays.level_length_distribution[0])
    quantiles = (0.25, 0.5, 0.75)
    for edge in edges[:-1]:  # a string of n tokens fills n + 1 positions
        assert any(holds[edge - 2] < q <= holds[edge - 1] for q in quantiles)
    if task == NEXT:
        length = draw(task).x.valid.sum(1)
        for edge in edges[:-1]:
            within((length <= edge).sum(), ROWS, float(holds[edge - 1]))


def test_strings_of_one_length_have_one_edge() -> None:
    rules = (Rule("S", ("'a'", "'b'"), 0.5), Rule("S", ("'b'", "'b'"), 0.5))
    task = NextToken(grammar=Grammar("pairs", rules, ("S",)))
    assert task.edges == (3,)


def test_vocabulary() -> None:
    assert Vocabulary.of(4).size == 8 and Vocabulary.of(5).size == 16
    v = Vocabulary.of(5)
    assert (v.bos, v.eos, v.pad, v.mask) == (5, 6, 7, 8) and v.mask < v.size


@pytest.mark.parametrize("task", [MASKED, END], ids=lambda t: type(t).__name__)
def test_metrics_are_sums_over_scored_positions(task: GrammarTask) -> None:
    batch = draw(task, 0, 7)
    logits = np.random.default_rng(0).normal(size=(*batch.y.shape, 3)).astype("f4")
    scored = batch.weight > 0
    q = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    nll = -np.log(np.take_along_axis(q, batch.y[..., None], -1)[..., 0])[scored]
    hit = (logits.argmax(-1) == batch.y)[scored]
    got = task.metrics(jnp.asarray(logits), jax.tree.map(jnp.asarray, batch))
    np.testing.assert_allclose(got["loss"], (nll.sum(), scored.sum()), rtol=1e-5)
    np.testing.assert_array_equal(got["accuracy"], (hit.sum(), scored.sum()))
    assert 0 < hit.sum() < scored.sum()
    assert task.enumerate() is None


# ---------------------------------------------------------------------- masking


def test_selected_as_often_as_asked_and_never_bos() -> None:
    """2,000 rows of cfg3b, some 43,000 tokens; also of neighbours at once."""
    batch = draw(MASKED)
    selected, inner = batch.weight > 0, batch.x.valid.copy()
    inner[:, 0] = False
    assert not selected[~inner].any()
    within(selected.sum(0)[1:15], ROWS, 0.3)  # every string has 14 tokens
    within(selected.sum(), inner.sum(), 0.3)
    both = inner[:, 1:-1] & inner[:, 2:]
    pairs = selected[:, 1:-1] & selected[:, 2:]
    # Neighbouring pairs overlap; the variance of their count is below three times
    # that of independent pairs.
    gap = pairs.sum() - 0.09 * both.sum()
    assert abs(gap) < 5 * np.sqrt(3 * 0.09 * 0.91 * both.sum())


def test_selected_tokens_are_masked_drawn_or_kept() -> None:
    batch = draw(MASKED)
    selected = batch.weight > 0
    ids, clean, n = batch.x.ids[selected], batch.y[selected], int(selected.sum())
    within((ids == 6).sum(), n, 0.8)
    within((ids == clean).sum(), n, 0.1 + 0.1 / 3)
    other = (ids != clean) & (ids != 6)
    within(other.sum(), n, 0.2 / 3)
    assert (ids[other] < 3).all()
    for token in range(3):  # each of the other two terminals is as likely
        to = ids[other & (clean == token)]
        within((to == (token + 1) % 3).sum(), len(to), 0.5)


@pytest.mark.parametrize(("mask", "random"), [(0.0, 1.0), (0.0, 0.0), (1.0, 0.0)])
def test_other_corruptions(mask: float, random: float) -> None:
    task = MaskedLM(grammar=SMALL, rate=1.0, mask=mask, random=random)
    clean = draw(NEXT).x.ids
    inner = clean < 3
    x, selected = by_hand(task)
    np.testing.assert_array_equal(selected, inner)
    ids, clean, n = x.ids[selected], clean[selected], int(selected.sum())
    within((ids == 6).sum(), n, mask)
    within((ids == clean).sum(), n, (1 - mask - random) + random / 3)
    if random == 1:
        for a in range(3):
            for b in range(3):
                within((ids[clean == a] == b).sum(), (clean == a).sum(), 1 / 3)


def test_selected_positions_are_hidden_or_not() -> None:
    hidden, (shown, selected) = draw(MASKED).x, by_hand(replace(MASKED, hidden=False))
    np.testing.assert_array_equal(hidden.ids, shown.ids)
    np.testing.assert_array_equal(shown.visible, shown.valid)
    np.testing.assert_array_equal(hidden.visible, hidden.valid & ~selected)
    assert hidden.visible[:, 0].all()  # BOS
    assert (hidden.visible != shown.visible).any()


# ------------------------------------------------------------------- next token


def ends_of(task: GrammarTask, s: Strings, row: int, level: int) -> list[int]:
    """Where the nodes of a level end in a row, from its derivation tree."""

    def size(node: Any) -> int:
        return sum(map(size, node.children)) if node.children else 1

    nodes = [to_tree(task.arrays, s, row)]
    for _ in range(level):
        nodes = [c for node in nodes for c in node.children]
    return np.cumsum([size(node) for node in nodes]).tolist()


@pytest.mark.parametrize("level", [None, 0, 1])
def test_the_token_after_each_position_is_scored(level: int | None) -> None:
    """Position i predicts token i + 1; with a level, only where its node ends."""
    task = NextToken(grammar=SMALL, level=level)
    batch, s = draw(task, 0, 7), strings()
    for row in range(7):
        n = int(s.length[row])
        ends = ends_of(task, s, row, level) if level is not None else range(1, n + 1)
        expected = np.zeros(task.positions)
        expected[[end - 1 for end in ends]] = 1
        np.testing.assert_array_equal(batch.weight[row], expected)
        np.testing.assert_array_equal(batch.y[row, :n], s.tokens[row, :n])
    assert (batch.x.visible == batch.x.valid).all()
    if level == 0:
        np.testing.assert_array_equal(batch.weight.sum(1), 1)


# --------------------------------------------------------------------- refusals

ONE = Grammar("one", (Rule("S", ("'a'", "'a'"), 1.0),), ("S",))


@pytest.mark.parametrize(
    ("make", "fields", "words"),
    [
        (MaskedLM, dict(rate=0.0), r"task\.rate must lie in \(0, 1\], got 0"),
        (MaskedLM, dict(rate=1.5), r"task\.rate must lie in \(0, 1\], got 1\.5"),
        (MaskedLM, dict(mask=-0.1), r"task\.mask must lie in"),
        (MaskedLM, dict(random=float("nan")), r"task\.random must lie in"),
        (MaskedLM, dict(mask=0.8, random=0.3), r"at most 1, got 0\.8 \+ 0\.3"),
        (MaskedLM, dict(grammar=ONE), r"at least two terminals"),
        (NextToken, dict(level=3), r"task\.level must be None or lie in 0\.\.2"),
        (NextToken, dict(level=-1), r"task\.level must be None"),
        (NextToken, dict(level=True), r"task\.level must be a whole number or None"),
    ],
)
def test_refused(make: Any, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as e:
        make(**(dict(grammar=SMALL) | fields))
    assert "\n" not in str(e.value)


# ----------------------------------------------------------------- whole records


@pytest.mark.parametrize("task", [ALL, NEXT, END], ids=lambda t: type(t).__name__)
def test_records_come_back_from_json(task: Any) -> None:
    spec = RunSpec(
        kind="teacher",
        task=task,
        model=Transformer(positions=task.positions, layers=1, heads=1),
        strategies=(Strategy(name="ce"),),
        stop=Stop(max_samples=64),
        eval_every=32,
        micro=4,
    )
    data = to_json(spec)
    assert from_json(RunSpec, data, extra=BUILT_IN) == spec
    other = {k: v for k, v in data.items() if k != "micro"}
    assert from_json(RunSpec, other, extra=BUILT_IN) == replace(spec, micro=0)
    assert "micro" not in to_json(replace(spec, micro=0))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (dict(positions=27), r"model\.positions = 27 must be at least 28"),
        (dict(vocab=7), r"model\.vocab = 7 must be at least 8"),
        (dict(n_classes=4), r"model\.n_classes = 4 must equal the task's 3"),
    ],
)
def test_models_that_cannot_read_the_rows_are_refused(
    model: dict[str, int], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        RunSpec(
            kind="teacher",
            task=MASKED,
            model=Transformer(**model),
            strategies=(Strategy(name="ce"),),
            stop=Stop(max_samples=64),
            eval_every=32,
        )
