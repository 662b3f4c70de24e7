"""Every evaluation is told as it is stored, and telling it changes nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sandbox as sb
from sandbox.train import resumable
from tests.train.test_loop_faults import interrupt

Make = Callable[..., sb.RunSpec]
Root = Callable[[str], Path]


def fitted(spec: sb.RunSpec, root: Path, **more: Any) -> sb.Run:
    return sb.fit(spec, root=root, progress=sb.Silent(), **more)


def bits(run: sb.Run) -> dict[str, bytes]:
    """Every file that holds numbers."""
    path = run.folder.path
    files = [path / "metrics.parquet", *sorted((path / "ckpt").iterdir())]
    return {p.name: p.read_bytes() for p in files}


def test_all_is_told_as_it_is_stored_and_no_bit_moves(
    make_student: Make, new_root: Root
) -> None:
    spec = make_student()
    plain = fitted(spec, new_root("plain"))
    told: list[sb.Evaluation] = []

    def spoil(e: sb.Evaluation) -> None:
        told.append(e._replace(metrics={n: v.copy() for n, v in e.metrics.items()}))
        np.random.seed(1)  # noqa: NPY002 (whatever it does)
        for values in e.metrics.values():
            values[:] = 0

    run = fitted(spec, new_root("told"), on_eval=spoil)
    assert run.folder.path.name == plain.folder.path.name and bits(run) == bits(plain)
    assert [e.samples for e in told] == run.steps.tolist()
    for name, values in run.metrics.columns.items():
        seen = np.stack([e.metrics[name] for e in told], -1)
        np.testing.assert_array_equal(seen, values)
    assert told[0].seeds == run.spec.seeds
    last, lane = told[-1].scalars, run.curves("ce")[:, -1]
    assert last["accuracy/ce"] == pytest.approx(lane.mean())
    # Of a seed without its checkpoint there is nothing to average.
    alone = run.curves("2-shot")[:, -1]
    assert last["accuracy/2-shot"] == pytest.approx(alone[~np.isnan(alone)].mean())
    told.clear()
    fitted(spec, run.root, on_eval=told.append)  # which is finished
    assert told == []


class Lost(Exception):
    """A tracker that cannot be reached."""


@pytest.mark.parametrize("at", [0, 192, 1536])
def test_what_it_raises_loses_nothing(
    make_student: Make, new_root: Root, at: int
) -> None:
    spec, root = make_student(), new_root("runs")
    told: list[int] = []

    def breaks(e: sb.Evaluation) -> None:
        if e.samples == at:
            raise Lost
        told.append(e.samples)

    with pytest.raises(Lost):
        fitted(spec, root, on_eval=breaks)
    before = list(told)
    assert before == list(range(0, at, 64))
    run = fitted(spec, root, on_eval=lambda e: told.append(e.samples))
    assert told == run.steps.tolist()  # the one that was lost as well
    assert bits(run) == bits(fitted(spec, new_root("whole")))


def test_after_a_resume_the_last_one_is_told_again(
    make_student: Make, new_root: Root
) -> None:
    spec, root = make_student(), new_root("runs")
    interrupt(spec, root, 256)
    told: list[int] = []
    run = fitted(spec, root, on_eval=lambda e: told.append(e.samples))
    (first, *_) = told
    assert 0 < first <= 256 and told == [t for t in run.steps.tolist() if t >= first]


def test_a_follower_tells_nothing() -> None:
    """Of several processes only the first has a folder, and tells."""

    class Once(resumable.Work):
        at, note, left = 0, "", 2

        def tell(self) -> None:
            raise Lost

        def step(self) -> bool:
            self.left -= 1
            return self.left >= 0

        def saved(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            return {}, {}

        def restore(self, tensors: object, meta: object) -> bool:
            return False

        def write(self) -> None:
            """Nothing."""

    work = Once()
    resumable._go_on(work, None, 0.0, {}, sb.Silent(), [], together=False)
    assert work.left == -1


@pytest.mark.long
def test_tensorboard_gets_every_scalar(
    make_student: Make, new_root: Root, tmp_path: Path
) -> None:
    import tensorboardX
    from tensorboardX.proto.event_pb2 import Event

    with tensorboardX.SummaryWriter(str(tmp_path / "logs")) as writer:

        def log(e: sb.Evaluation) -> None:
            for name, value in e.scalars.items():
                writer.add_scalar(name, value, e.samples)

        run = fitted(make_student(), new_root("runs"), on_eval=log)
    (file,) = (tmp_path / "logs").iterdir()
    data, found = file.read_bytes(), []
    while data:  # length, its checksum, an event, its checksum
        n = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + n])
        found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
        data = data[16 + n :]
    curve = [(step, value) for tag, step, value in found if tag == "accuracy/ce"]
    assert [step for step, _ in curve] == run.steps.tolist()
    np.testing.assert_allclose(
        [v for _, v in curve], run.curves("ce").mean(0), rtol=1e-6
    )


def log_records(data: bytes) -> Iterator[bytes]:
    """Records of a LevelDB log: in blocks, each after checksum, length and kind."""
    at, whole = 7, b""  # after the file's own header
    while at + 7 <= len(data):
        if 2**15 - at % 2**15 < 7:
            at += 2**15 - at % 2**15
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # in one piece, or its last
            yield whole
            whole = b""


@pytest.mark.long
@pytest.mark.filterwarnings("default")  # of the tracker's own
def test_wandb_gets_every_scalar_without_a_network(
    make_student: Make, new_root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    for name in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    with wandb.init(project="parity", mode="offline") as tracker:
        run = fitted(
            make_student(),
            new_root("runs"),
            on_eval=lambda e: tracker.log(e.scalars, e.samples, commit=True),
        )
    wandb.teardown()  # its service has written all when it has ended
    (stored,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    curve = {}
    for record in map(Record.FromString, log_records(stored.read_bytes())):
        row = {(*i.nested_key, i.key)[0]: i.value_json for i in record.history.item}
        if "accuracy/ce" in row:
            curve[int(row["_step"])] = float(row["accuracy/ce"])
    assert list(curve) == run.steps.tolist()
    np.testing.assert_allclose([*curve.values()], run.curves("ce").mean(0), rtol=1e-6)
