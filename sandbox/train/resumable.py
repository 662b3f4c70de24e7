"""Work that goes piece by piece, is stored in one folder, and resumes where it stopped.

    compute(record, {"a": fn, "b": fn}, root=root)   # what a study has to compute

Training (`sandbox.train.loop`), measuring along a trajectory (`sandbox.probes.offline`)
and `compute` differ in what a piece is and what is stored; all else is here.
"""

import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote, unquote

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sandbox.errors import Interrupted, StoreError
from sandbox.store.code import Code, foreign_sources
from sandbox.store.config import digest, to_json
from sandbox.store.files import exclusive, read_json, write_atomic, write_json
from sandbox.store.folders import SCHEMA, RunFolder
from sandbox.store.provenance import provenance
from sandbox.train.arithmetic import pinned
from sandbox.train.devices import agreed
from sandbox.train.progress import Progress, Silent, default_progress
from sandbox.train.signals import collected_signals, join_sittings, say, say_once

SAVE_SECONDS = 10.0
"""Work of earlier pieces that a killed process may lose; a signal loses none."""
VALUES = "values.safetensors"

Arrays = dict[str, np.ndarray]


class Work(ABC):
    """What `carry_out` does, one piece after the other.

    Attributes:
      folder: where its files go.
      title: what it is called while it goes on.
      total: units it takes at most.
      unit: what is counted, in the plural.
    """

    folder: RunFolder
    title: str
    total: int
    unit: str
    host: Collection[str] = ()
    """Modules that decide numbers and leave no trace in `programs`."""

    def tell(self) -> None:  # noqa: B027 (most work has nobody to tell)
        """Hands on what is new to whoever asked for it; of the first process alone."""

    def repeats(self) -> bool:
        """Whether its beginning comes out as it is stored, to the bit."""
        return False

    @property
    def programs(self) -> str:
        """Hash of the compiled programs that decide the numbers; empty if unknown."""
        return ""

    @property
    @abstractmethod
    def at(self) -> int:
        """Units finished."""

    @property
    @abstractmethod
    def note(self) -> str:
        """How it goes, for whoever watches."""

    @property
    def stored(self) -> Mapping[str, str]:
        """Name -> sha256 of the files that it stored on the way."""
        return {}

    @abstractmethod
    def step(self) -> bool:
        """Does the next piece; False if none is left."""

    @abstractmethod
    def saved(self) -> tuple[Arrays, dict[str, Any]]:
        """All it needs to go on: arrays and JSON data."""

    @abstractmethod
    def restore(self, tensors: Arrays, meta: dict[str, Any]) -> bool:
        """Takes up what was saved; False, and no change, if it is of other work."""

    @abstractmethod
    def write(self) -> None:
        """Stores the result."""


def carry_out(
    folder: RunFolder,
    what: dict[str, Any],
    make: Callable[[], Work],
    *,
    kind: str,
    code: Code,
    progress: Progress | None,
    together: bool = False,
) -> None:
    """Finishes what a folder is for, from where it stopped; at once if it is complete.

    Of several processes (`jax.distributed`) the first one stores it. The others do the
    same work beside it, or wait until it is there.

    What other code made, or other random numbers, or from other inputs, is used only
    if its compiled programs are the same, and else renamed and made again; a sentence
    says which.

    Args:
      folder: where it is stored.
      what: the content that the folder is called by.
      make: the work, at its beginning.
      kind: what the manifest calls it.
      code: the code that decides its numbers.
      progress: who is told.
      together: whether all processes do the work, which exchanges numbers.

    Raises:
      Interrupted: SIGINT, SIGTERM or SIGUSR1 arrived; call again to go on.
      StoreError: the folder is held by another process, a file cannot be written, or a
        stored one was damaged.
    """
    call = 1 + zlib.crc32(folder.path.name.encode()) % 2**30  # an int32 is sent
    shared = call if together and jax.process_count() > 1 else 0
    if jax.process_index() > 0:
        _follow(folder, make, shared)
    else:
        _lead(folder, what, make, kind, code, progress, shared)
    _same(agreed(call), call, folder)


def _same(first: int, call: int, folder: RunFolder) -> None:
    """Refuses to go on where the first process is at another folder."""
    if first != call:
        raise StoreError(
            f"{folder.path} is not what the first process works on; all must see the"
            " same files."
        )


def _lead(
    folder: RunFolder,
    what: dict[str, Any],
    make: Callable[[], Work],
    kind: str,
    code: Code,
    progress: Progress | None,
    call: int,
) -> None:
    """`carry_out` where it stores; `call` names the folder to others, 0 for none."""
    together = call > 0
    then = folder.made_by()
    if then is not None and code.why_other(then):
        _settle(folder, code, make)
    if folder.complete and not together:
        return
    with exclusive(folder.path):
        if together:
            agreed(0 if folder.complete else call)
        if folder.complete:
            return
        teller = default_progress() if progress is None else progress
        work = make()
        with collected_signals() as stop:  # also while it compiles and writes
            folder.prepare()
            write_json(folder.path / "config.json", what)
            made_by = code.record(work.programs)
            wall, sittings = _restore(work, folder)
            if together:
                agreed(work.at)
            if then == {} and work.at:  # begun before code was stored
                made_by = {}
            about = {"sittings": sittings, "code": made_by}
            finished = False
            teller.start(work.title, work.total, work.at, work.unit)
            try:
                wall = _go_on(work, folder, wall, about, teller, stop, together)
                work.write()
                write_json(
                    folder.path / "provenance.json",
                    {**provenance(wall_seconds=wall), "sittings": sittings},
                )
                folder.commit({"kind": kind, "code": made_by}, known=work.stored)
                finished = True
            finally:
                note = work.note if finished else _where(work)
                teller.close(note, finished=finished)


def _settle(folder: RunFolder, code: Code, make: Callable[[], Work]) -> None:
    """Adopts what other code made, or puts it out of the way, and says so."""
    with exclusive(folder.path):
        then = folder.made_by()  # as it is now that nobody else can change it
        why = "" if then is None else code.why_other(then)
        if not then or not why:
            if why:
                say_once(f"{folder.path} {why}; it is used as it is.")
            return
        try:
            work = make() if code.same_inputs(then) else None
        except StoreError as e:  # what it was made from is not there
            if not folder.complete:
                raise
            say_once(f"{folder.path} {why}; it is used as it is ({e})")
            return
        programs, host = "", False
        if work:
            programs, host = work.programs, bool(code.changed(then) & set(work.host))
        same = programs != "" and programs == then["programs"]
        if work and same and (work.repeats() if host else True):
            began = ", and its first evaluations come out so" if host else ""
            say(
                f"{folder.path} {why}; it is used, as the compiled programs and the"
                f" switches of teachers are the same{began}."
            )
            if folder.complete:
                folder.adopt(code.record(programs))
            return
        aside = folder.set_aside()
    say(f"{folder.path} {why}; it is kept as {aside.name} and made again.")


def _where(work: Work) -> str:
    return f"at {work.unit.removesuffix('s')} {work.at:,}"


def _restore(work: Work, folder: RunFolder) -> tuple[float, list[dict[str, str]]]:
    """Seconds spent so far, and the sittings, this one included."""
    found = folder.load_resume()
    wall, earlier = 0.0, []
    if found is not None:
        meta = found[1]
        if "wall" in meta and work.restore(*found):
            wall, earlier = meta["wall"], meta.get("sittings", [])
        else:
            say(f"{folder.path}: the saved state does not fit; starting over")
    folder.require_unchanged(work.stored)
    for path in (folder.path / "ckpt").glob("step_*.safetensors"):
        if f"ckpt/{path.name}" not in work.stored:  # from beyond where it resumes
            path.unlink()
    return wall, join_sittings(earlier)


def _follow(folder: RunFolder, make: Callable[[], Work], call: int) -> None:
    """What a process other than the first does; it stores nothing."""
    if call and (first := agreed(0)):
        _same(first, call, folder)
        work = make()
        with collected_signals() as stop, TemporaryDirectory() as own:
            found = folder.load_resume()
            if found is not None and "wall" in found[1]:
                work.restore(*found)
            first = agreed(0)
            if work.at != first:
                raise StoreError(
                    f"{folder.path} is {_where(work)} here and at {first:,} where the"
                    " first process runs; all must see the same files."
                )
            work.folder = RunFolder(Path(own))
            work.folder.prepare()
            _go_on(work, None, 0.0, {}, Silent(), stop, together=True)
            work.write()
    while not folder.complete:  # without the first process jax ends this one
        time.sleep(0.2)


def _go_on(
    work: Work,
    folder: RunFolder | None,
    wall: float,
    about: dict[str, Any],
    progress: Progress,
    stop: list[str],
    together: bool,
) -> float:
    """Does what is left, or saves and raises at a signal; seconds over all sittings.

    Without a folder another process saves, and says when to stop.
    """
    saved = time.monotonic()
    begin = saved - wall

    def now(event: bool) -> bool:
        return bool(agreed(event)) if together else event

    def save_state() -> None:
        arrays, meta = work.saved()
        seconds = time.monotonic() - begin
        if folder is not None:
            meta |= {"wall": seconds, **about}
            folder.save_resume(work.at, arrays, meta)

    while True:
        error = _error_of(work.tell) if folder is not None else None
        late = work.at > 0 and time.monotonic() - saved > SAVE_SECONDS
        if now(late or error is not None):
            save_state()
            saved = time.monotonic()
        if error is not None:
            raise error
        if (stopped := now(bool(stop))) or not work.step():
            break
        progress.update(work.at, work.note)
    if stopped:
        save_state()
        if folder is None:
            raise Interrupted("stopped with the first process.")
        raise Interrupted(
            f"stopped {_where(work)} by signal {stop[0]}; its state is saved in"
            f" {folder.path}, run the same command to go on."
        )
    return time.monotonic() - begin


def _error_of(call: Callable[[], None]) -> BaseException | None:
    """What a call raises."""
    try:
        call()
    except BaseException as error:
        return error
    return None


class Pieces(Work):
    """Named pieces that are arrays, joined to one file when all are there."""

    def __init__(
        self,
        folder: RunFolder,
        title: str,
        pieces: Mapping[str, Callable[[], Mapping[str, Any]]],
        *,
        unit: str,
        join: Callable[[dict[str, Arrays]], Arrays],
    ) -> None:
        """Computes nothing yet.

        Args:
          folder: where the file goes.
          title: what the work is called.
          pieces: name -> what makes its arrays.
          unit: what a piece is called, in the plural.
          join: the arrays of the file from those of the pieces.
        """
        self.folder, self.title, self.pieces = folder, title, pieces
        self.total, self.unit, self.join = len(pieces), unit, join
        self.values: dict[str, Arrays] = {}

    @property
    def at(self) -> int:
        """Pieces finished."""
        return len(self.values)

    @property
    def note(self) -> str:
        """The last piece; nothing at the end."""
        return "" if self.at == self.total else next(reversed(self.values), "")

    def step(self) -> bool:
        """Makes the first missing one."""
        for name, make in self.pieces.items():
            if name not in self.values:
                self.values[name] = {k: np.asarray(v) for k, v in make().items()}
                return True
        return False

    def saved(self) -> tuple[Arrays, dict[str, Any]]:
        """The arrays so far."""
        arrays = _flat(self.values)
        return arrays, {"names": list(arrays)}

    def restore(self, tensors: Arrays, meta: dict[str, Any]) -> bool:
        """Takes the arrays of an earlier sitting."""
        values = _nested(tensors)
        sound = set(meta.get("names", ())) == tensors.keys()
        if sound and values.keys() <= self.pieces.keys():
            self.values = values
        return self.values is values

    def write(self) -> None:
        """One file of all arrays."""
        arrays = self.join(self.values)
        data = {k: np.asarray(v, order="C") for k, v in arrays.items()}
        write_atomic(self.folder.path / VALUES, save(data))


def _flat(values: dict[str, Arrays]) -> Arrays:
    """`piece/name` -> array; a slash within the name of a piece is written %2F."""
    return {
        f"{quote(p, safe='')}/{n}": a for p, v in values.items() for n, a in v.items()
    }


def _nested(flat: Arrays) -> dict[str, Arrays]:
    """Inverse of `_flat`."""
    out: dict[str, Arrays] = {}
    for path, array in flat.items():
        piece, _, name = path.partition("/")
        out.setdefault(unquote(piece), {})[name] = array
    return out


def read_values(folder: RunFolder) -> tuple[Arrays, float]:
    """The arrays of finished `Pieces`, and the seconds they took when they were made.

    Raises:
      StoreError: a file is missing, altered or holds no arrays; it is named.
    """
    folder.check("provenance.json")
    folder.check(VALUES)
    about = read_json(folder.path / "provenance.json")
    wall = about.get("wall_seconds", 0.0) if isinstance(about, dict) else 0.0
    try:
        return load((folder.path / VALUES).read_bytes()), wall
    except (SafetensorError, KeyError, TypeError, ValueError) as e:
        raise StoreError(
            f"{folder.path / VALUES} is no measurement ({e!s:.200})."
        ) from e


@dataclass(frozen=True)
class Computed:
    """What a study computed without training.

    Attributes:
      values: name of a piece -> its arrays.
      wall_seconds: what it took when it was done.
      folder: its files.
    """

    values: dict[str, dict[str, np.ndarray]]
    wall_seconds: float
    folder: RunFolder


def compute(
    what: Any,
    pieces: Mapping[str, Callable[[], dict[str, np.ndarray]]],
    *,
    root: Path,
    kind: str = "computed",
    progress: Progress | None = None,
) -> Computed:
    """Computes the pieces of a record once, or opens them if they are stored.

    The record, and the source of any class of it defined outside `sandbox`, say what is
    computed: whatever the arrays depend on belongs in it.

    Args:
      what: a frozen record.
      pieces: name -> what computes its arrays, in the order of computing.
      root: where runs are stored; the arrays go to `<root>/<kind>/<hash>`.
      kind: the folder's kind.
      progress: who is told.

    Raises:
      Interrupted: SIGINT, SIGTERM or SIGUSR1 arrived; call again to go on.
      StoreError: the folder is held by another process, a file was altered, or what is
        stored are other pieces.
    """
    content = {
        "schema": SCHEMA,
        "what": to_json(what),
        "foreign": foreign_sources(what),
        "platform": jax.default_backend(),
    }
    folder = RunFolder(root / kind / digest(content))
    title = f"{kind} {folder.path.name[:6]}"
    with pinned():
        carry_out(
            folder,
            content,
            lambda: Pieces(folder, title, pieces, unit="pieces", join=_flat),
            kind=kind,
            code=Code.of(what, *pieces.values()),
            progress=progress,
        )
    flat, wall = read_values(folder)
    values = _nested(flat)
    if values.keys() != pieces.keys():
        raise StoreError(
            f"{folder.path / VALUES} holds the pieces {', '.join(values)}, where"
            f" {', '.join(pieces)} were asked for; delete the folder to make it again."
        )
    return Computed({name: values[name] for name in pieces}, wall, folder)
