"""Records to JSON and back: strict reading, and a hash of everything."""

import json
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import jax.numpy as jnp
import jaxtyping
import pytest

from sandbox.distill.sources import (
    Final,
    Lane,
    NShot,
    PerSeed,
    Progressive,
    Source,
    UntilSaturation,
)
from sandbox.distill.strategy import Anneal, Loss, Strategy, Target
from sandbox.errors import ConfigError
from sandbox.models.mlp import MLP
from sandbox.store.code import foreign_sources
from sandbox.store.config import (
    canonical,
    digest,
    from_json,
    to_json,
)
from sandbox.tasks.hierarchy import Hierarchy
from sandbox.tasks.parity import ExplicitSupport, NoisyParity, Parity, RandomSupport
from sandbox.train.optim import SGD, Adam, LearningRate
from sandbox.train.run import BUILT_IN, identity
from sandbox.train.spec import RunSpec, Stop, TeacherRef

TEACHER = RunSpec(
    kind="teacher",
    task=NoisyParity(d=10, k=2, support=ExplicitSupport(indices=(3, 1)), eps=0.125),
    model=MLP(d=10, hidden=(16, 8)),
    strategies=(Strategy(name="teacher"),),
    stop=Stop(max_samples=1024, accuracy=0.9, factor=1.5),
    eval_every=64,
    checkpoint_every=128,
    n_seeds=2,
    optimizer=Adam(lr=LearningRate(peak=1e-3, warmup=10, decay="cosine", total=2000)),
)
STUDENT = RunSpec(
    kind="student",
    task=TEACHER.task,
    model=MLP(d=10, hidden=(16,)),
    strategies=(
        Strategy(name="ce"),
        Strategy(name="final", source=Final(), target=Target(tau=0.0)),
        Strategy(
            name="progressive",
            source=Progressive(every=128, speed=0.5),
            loss=Loss(alpha=Anneal(start=1.0, end=0.0, over=500)),
        ),
        Strategy(
            name="shots", source=NShot(steps=(PerSeed((128, None)), 256), hold=64)
        ),
        Strategy(name="saturation", source=UntilSaturation(every=256, limit=64)),
    ),
    stop=Stop(max_samples=PerSeed((640, 1280))),
    eval_every=64,
    n_seeds=2,
    optimizer=SGD(lr=LearningRate(peak=0.1), momentum=0.5),
    teacher=TeacherRef(spec=TEACHER, final=PerSeed((1024, None))),
    engine="generic",
)


def read(data: Any) -> RunSpec:
    return from_json(RunSpec, data, extra=BUILT_IN)


@pytest.mark.parametrize("spec", [TEACHER, STUDENT], ids=["teacher", "student"])
def test_round_trip_through_text(spec: RunSpec) -> None:
    text = canonical(to_json(spec))
    again = read(json.loads(text))
    assert again == spec and hash(again) == hash(spec)
    assert canonical(to_json(again)) == text
    assert digest(to_json(again)) == digest(to_json(spec))


@pytest.mark.parametrize(
    "task",
    [
        Parity(d=10, k=2, support=RandomSupport()),
        Hierarchy(d=10, depth=1, layout="shared"),
    ],
)
def test_other_tasks_round_trip(task: Any) -> None:
    spec = replace(TEACHER, task=task)
    assert read(to_json(spec)) == spec


def changed(data: Any, path: str, value: Any) -> Any:
    """A copy of JSON data with the entry at `a.0.b` replaced; DROP removes it."""
    data = json.loads(json.dumps(data))
    node = data
    *parents, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    for p in parents:
        node = node[p]
    if value is DROP:
        del node[last]
    else:
        node[last] = value
    return data


DROP = object()
BAD = [
    ("task.kk", 3, r"^\$\.task\.kk: unknown field of NoisyParity; did you mean k\?"),
    ("zebra", 3, r"^\$\.zebra: unknown field of RunSpec; has one of batch_size,"),
    ("task.k", "2", r"^\$\.task\.k: expected int, got '2'"),
    ("task.k", 2.0, r"^\$\.task\.k: expected int, got 2\.0"),
    ("task.k", True, r"^\$\.task\.k: expected int, got True"),
    ("task.eps", "0.1", r"^\$\.task\.eps: expected float, got '0\.1'"),
    ("task.eps", True, r"^\$\.task\.eps: expected float"),
    ("task.eps", float("nan"), r"^\$\.task\.eps: expected float, got nan"),
    ("task.k", 99, r"^\$\.task: task\.k must lie in 1\.\.d = 1\.\.10, got 99"),
    ("task.type", "Parities", r"^\$\.task\.type: expected one of .*got 'Parities'"),
    ("task.type", "MLP", r"^\$\.task\.type: MLP is no Task, .*not define bayes, enum"),
    ("task.type", "my_study:Parity", r"^\$\.task\.type: .*through --study MODULE"),
    ("strategies.1.source", 3, r"^\$\.strategies\[1\]\.source: expected an object"),
    ("stop.give_up", 1.5, r"^\$\.stop\.give_up: expected int"),
    ("task", 3, r"^\$\.task: expected an object, got 3"),
    ("task.support.type", "os.system", r"^\$\.task\.support\.type: .*got 'os\.system'"),
    ("task.support.indices", 3, r"^\$\.task\.support\.indices: expected a list"),
    ("task.support.indices.1", 1.5, r"^\$\.task\.support\.indices\[1\]: expected int"),
    ("task.support.indices", DROP, r"indices: missing field of ExplicitSupport"),
    (
        "kind",
        "pupil",
        r"^\$\.kind: expected one of \('teacher', 'student'\), got 'pupil'",
    ),
    ("kind", DROP, r"^\$\.kind: missing field of RunSpec"),
    ("type", DROP, r"^\$\.type: expected one of RunSpec, got None"),
    ("strategies.0.source.type", "Parity", r"^\$\.strategies\[0\]\.source\.type"),
    (
        "strategies.2.loss.alpha",
        [0],
        r"^\$\.strategies\[2\]\.loss\.alpha: expected float",
    ),
    ("strategies.2.loss.alpha.over", 0, r"alpha: anneal\.over must be at least 1"),
    (
        "strategies.3.source.steps.0.values.1",
        "x",
        r"values\[1\]: expected int, got 'x'",
    ),
    ("teacher.spec.strategies", {}, r"^\$\.teacher\.spec\.strategies: expected a list"),
    ("teacher.final.values", [640], r"^\$: per-seed values must have one entry"),
    ("optimizer.lr.peak", 0, r"^\$\.optimizer\.lr: lr\.peak must be positive"),
]


@pytest.mark.parametrize(
    "path, value, message", BAD, ids=[f"{i} {b[0]}" for i, b in enumerate(BAD)]
)
def test_bad_data_is_refused_with_its_path(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(changed(to_json(STUDENT), path, value))


def test_missing_fields_with_defaults_take_them() -> None:
    data = changed(to_json(STUDENT), "eval_points", DROP)
    assert read(data) == STUDENT


def leaves(record: Any, path: str = "") -> list[tuple[str, Any]]:
    """Every scalar of the JSON data with its path."""
    if isinstance(record, dict):
        return [x for k, v in record.items() for x in leaves(v, f"{path}.{k}")]
    if isinstance(record, list):
        return [x for i, v in enumerate(record) for x in leaves(v, f"{path}.{i}")]
    return [(path.removeprefix("."), record)]


def test_the_hash_sees_every_field() -> None:
    data = to_json(STUDENT)
    every = leaves(data)
    assert len(every) > 90
    seen = {digest(data)}
    for path, value in every:
        other = {"x": value} if value is None else [value]
        seen.add(digest(changed(data, path, other)))
        if isinstance(value, float):
            seen.add(digest(changed(data, path, value + 1e-9)))
    n_floats = sum(isinstance(v, float) for _, v in every)
    assert len(seen) == 1 + len(every) + n_floats


def test_every_field_of_a_record_is_in_its_json() -> None:
    def check(record: Any, data: Any) -> None:
        if is_dataclass(record):
            shown = [  # a later field is left out while it holds its default
                f
                for f in fields(record)
                if not f.metadata.get("omit_default")
                or getattr(record, f.name) != f.default
            ]
            assert set(data) == {"type"} | {f.name for f in shown}
            for f in shown:
                check(getattr(record, f.name), data[f.name])

    check(STUDENT, to_json(STUDENT))


def test_equal_records_have_one_hash() -> None:
    """1 == 1.0 in Python, and the runs are the same."""
    for make, name in ((Loss, "alpha"), (LearningRate, "peak"), (Target, "tau")):
        a, b = make(**{name: 1.0}), make(**{name: 1.0})
        object.__setattr__(b, name, 1)
        assert a == b and digest(to_json(a)) == digest(to_json(b))
    assert to_json(Stop(max_samples=64))["max_samples"] == 64
    assert canonical({"b": 1, "a": [0.1, None]}) == '{"a":[0.1,null],"b":1}'


def test_identity_holds_what_moves_bits() -> None:
    a = identity(STUDENT)
    assert a["engine"] == "generic" and a["platform"] == "cpu" and a["foreign"] == {}
    blocked = replace(STUDENT, optimizer=SGD(), engine="auto")
    assert identity(blocked)["engine"] == "online_sgd"
    assert digest(identity(blocked)) != digest(identity(replace(blocked, block=64)))
    assert digest(identity(blocked)) != digest(
        identity(replace(blocked, n_seeds=2)) | {"platform": "gpu"}
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), jnp.ones(2), {1, 2}])
def test_only_plain_finite_data(value: Any) -> None:
    with pytest.raises(ConfigError, match="records hold"):
        to_json(value)


@dataclass(frozen=True, kw_only=True)
class Mine(Parity):
    """A task defined outside the library."""

    extra: int = 0


def test_a_class_of_ones_own_must_be_handed_in() -> None:
    spec = replace(TEACHER, task=Mine(d=10, k=2, extra=4))
    data = to_json(spec)
    with pytest.raises(
        ConfigError, match=r"^\$\.task\.type: .*'test_config:Mine'.*--study"
    ):
        read(data)
    assert from_json(RunSpec, data, extra=(*BUILT_IN, Mine)) == spec
    assert set(foreign_sources(spec)) == {"test_config:Mine"}
    assert foreign_sources(TEACHER) == {}
    assert set(foreign_sources((1, [spec]))) == {"test_config:Mine"}
    assert identity(spec)["foreign"] == foreign_sources(spec)


@dataclass(frozen=True, kw_only=True)
class Backwards(Source):
    """Checkpoints from late to early, `every` samples each."""

    every: int
    shift: int | PerSeed = 0

    def checkpoint_at(self, t: int, lane: Lane) -> int | None:
        return max(lane.final - t // self.every * 128, 128)

    def next_switch(self, t: int, lane: Lane) -> int | None:
        after = (t // self.every + 1) * self.every
        return after if self.checkpoint_at(t, lane) != 128 else None

    def checkpoints(self, lane: Lane) -> tuple[int, ...]:
        return tuple(range(128, lane.final + 1, 128))

    def borders(self, n_seeds: int) -> list[tuple[str, int]]:
        return [("source.every", self.every)]

    def per_seed(self) -> tuple[PerSeed, ...]:
        return (self.shift,) if isinstance(self.shift, PerSeed) else ()


def test_a_source_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stored, read with extra=, part of the identity, and its fields checked."""

    def train(source: Source) -> RunSpec:
        mine = (Strategy(name="a", source=Final()), Strategy(name="b", source=source))
        return replace(STUDENT, strategies=mine)

    spec = train(Backwards(every=64))
    data = json.loads(canonical(to_json(spec)))
    assert data["strategies"][1]["source"]["type"] == "test_config:Backwards"
    assert from_json(RunSpec, data, extra=(*BUILT_IN, Backwards)) == spec
    with pytest.raises(ConfigError, match=r"\[1\]\.source\.type: .*--study MODULE"):
        read(data)
    with pytest.raises(ConfigError, match=r"source\.type: test_config:Mine is no Sour"):
        bad = changed(data, "strategies.1.source.type", "test_config:Mine")
        from_json(RunSpec, bad, extra=(*BUILT_IN, Mine))
    assert set(foreign_sources(spec)) == {"test_config:Backwards"}
    with pytest.raises(ConfigError, match=r"source\.every of 'b' = 33 must be a mult"):
        train(Backwards(every=33))
    with pytest.raises(ConfigError, match="one entry for each of n_seeds = 2"):
        train(Backwards(every=64, shift=PerSeed((0,))))
    assert replace(train(Backwards(every=32)), eval_every=320).segment == 32
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for not_one in (Backwards, 3):
        with pytest.raises(ConfigError, match="'b': source must be a schedule"):
            train(not_one)  # pyright: ignore[reportArgumentType]
