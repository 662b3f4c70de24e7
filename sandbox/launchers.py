"""Commands carried out elsewhere: as processes here, as jobs of Slurm, as tasks of Ray.

    carry_out({"0-4": [...], "5-9": [...]}, Local(workers=2, logs=folder))

A command ends with 0 when its work is stored, with 75 when it can be given again (it
was told to stop, or another process is at the same work), and with any other code when
it cannot be carried out. One that ended without a code, because its process or its
machine died, is given again too, a limited number of times. So a command may be given
twice; its work is in the store, and is done once.
"""

import ctypes
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Any, Protocol

from sandbox.errors import Interrupted, SandboxError
from sandbox.train.progress import clock
from sandbox.train.signals import HEARTBEAT, collected_signals, say

AGAIN = Interrupted.exit_code
PAUSE = 2.0, 120.0
"""Seconds before a command is given again: at first, and at most."""
PEER = "SANDBOX_PEER"
"""Which process of a group this is, and where the first one is: `1 127.0.0.1:4321`."""
WORKER = "SANDBOX_WORKER"
"""Tells a process which one of a launcher's began it."""
TOGETHER = "SANDBOX_TOGETHER"
"""Tells a process how many carry out its command together."""
LOST = 90.0
"""Seconds after which a job that left the queue without a word is lost: other machines
see a new file on a shared disk late."""
_PR_SET_PDEATHSIG = 1


class Launcher(Protocol):
    """Where commands are carried out."""

    every: float
    """Seconds between two looks."""

    def submit(self, commands: Mapping[str, Sequence[str]]) -> Mapping[str, Hashable]:
        """Starts commands by name, or puts them in a queue; a ticket for each."""
        ...

    def ended(self, tickets: Iterable[Hashable]) -> Mapping[Hashable, int | None]:
        """Exit codes of those that ended; None where there is none."""
        ...

    def stop(self) -> None:
        """Tells all that it started to stop, and waits a while for them."""
        ...


def carry_out(
    commands: Mapping[str, Sequence[str]], launcher: Launcher, *, restarts: int = 20
) -> dict[str, int]:
    """Carries out commands, each again until it is done or has failed.

    Args:
      commands: by name.
      launcher: where.
      restarts: how often one that was lost may be given again.

    Returns:
      Exit codes of those that failed, by name.

    Raises:
      Interrupted: a signal came; what was running was told to stop.
    """
    failed: dict[str, int] = {}
    lost = dict.fromkeys(commands, 0)
    pause = dict.fromkeys(commands, PAUSE[0])
    due = dict.fromkeys(commands, 0.0)  # name -> when it is given (again)
    running: dict[str, Hashable] = {}
    begun: dict[str, float] = {}
    with collected_signals() as stop, ExitStack() as on_error:
        on_error.callback(launcher.stop)
        while due or running:
            now = time.monotonic()
            ready = {n: commands[n] for n, at in due.items() if at <= now}
            if ready:
                running |= launcher.submit(ready)
                begun |= dict.fromkeys(ready, now)
                due = {n: at for n, at in due.items() if n not in ready}
            codes = launcher.ended(running.values())
            for name in [n for n, ticket in running.items() if ticket in codes]:
                code, took = codes[running.pop(name)], now - begun[name]
                lost[name] += code is None
                if code == 0:
                    say(f"{name}: done after {clock(took)}")
                elif code == AGAIN or (code is None and lost[name] <= restarts):
                    longer = min(2 * pause[name], PAUSE[1])
                    pause[name] = PAUSE[0] if took > PAUSE[1] else longer
                    due[name] = now + pause[name]
                    how = "lost" if code is None else "stopped"
                    say(f"{name}: {how} after {clock(took)}; given again")
                else:
                    failed[name] = AGAIN if code is None else code
                    say(f"{name}: failed with code {code} after {clock(took)}")
            if stop:
                raise Interrupted(
                    f"{len(running) + len(due)} of {len(commands)} groups are not"
                    " done; the same command goes on from what is stored."
                )
            time.sleep(launcher.every)
        on_error.pop_all()
    return failed


def run_command(words: Sequence[str], folder: str, together: int = 1) -> int | None:
    """Carries out a command as a process of its own, signals passed on to it.

    Args:
      words: the command.
      folder: where it is carried out.
      together: how many processes, this one among them, do so together.

    Returns:
      Its exit code; None if a signal killed it.
    """
    env = os.environ | {WORKER: f"{os.getpid()}", TOGETHER: f"{together}"}
    with subprocess.Popen(words, cwd=folder, env=env) as process:

        def pass_on(number: int, frame: FrameType | None) -> None:
            process.send_signal(signal.SIGTERM)

        for each in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(each, pass_on)
        try:
            code = process.wait()
        except BaseException:
            process.terminate()  # the task was cancelled
            raise
    return None if code < 0 else code


class Local:
    """Processes on this machine, each group with its output in a file of its own."""

    every = 0.2

    def __init__(
        self, logs: Path, workers: int, *, gpus: int = 0, processes: int = 1
    ) -> None:
        """Starts nothing yet.

        Args:
          logs: where output goes.
          workers: commands at a time.
          gpus: of each process, not shared with others; 0 leaves all to all.
          processes: that carry out one command together.
        """
        self.logs, self.size = logs, processes
        self.pool = ThreadPoolExecutor(workers)
        self.devices: SimpleQueue[list[str]] = SimpleQueue()
        known = _gpus() if gpus else []
        most = workers * processes * gpus
        if most > len(known):
            raise SandboxError(
                f"--gpus {gpus}: {workers} workers of {processes} processes need {most}"
                f" GPUs, {len(known)} are here."
            )
        own = [known[i * gpus : (i + 1) * gpus] for i in range(workers * processes)]
        for i in range(workers):
            each = own[i * processes : (i + 1) * processes]
            self.devices.put([",".join(names) for names in each])
        self.started: set[subprocess.Popen[bytes]] = set()

    def submit(self, commands: Mapping[str, Sequence[str]]) -> Mapping[str, Hashable]:
        """See `Launcher`."""
        return {n: self.pool.submit(self._run, n, c) for n, c in commands.items()}

    def _run(self, name: str, words: Sequence[str]) -> int | None:
        log, devices = self.logs / f"{file_name(name)}.log", self.devices.get()
        say(f"{name}: begins, {log}")
        with ExitStack() as stack:
            stack.callback(self.devices.put, devices)
            out = stack.enter_context(log.open("ab"))
            group = []
            address = f"127.0.0.1:{_free_port()}" if self.size > 1 else ""
            for i, own in enumerate(devices):
                env = os.environ | {WORKER: f"{os.getpid()}"}
                env |= {TOGETHER: f"{self.size}"}
                env |= {"CUDA_VISIBLE_DEVICES": own} if own else {}
                env |= {PEER: f"{i} {address}"} if address else {}
                process = subprocess.Popen(words, stdout=out, stderr=out, env=env)
                group.append(stack.enter_context(process))
            self.started |= {*group}
            code = _wait(group)
            self.started -= {*group}
        return code

    def ended(self, tickets: Iterable[Any]) -> Mapping[Hashable, int | None]:
        """See `Launcher`."""
        return {t: t.result() for t in tickets if t.done()}

    def stop(self) -> None:
        """See `Launcher`."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in list(self.started):
            process.terminate()
        self.pool.shutdown()


def _gpus() -> list[str]:
    """Names of the GPUs that this process may use."""
    if (own := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in own.split(",") if name]
    try:
        listed = subprocess.check_output(["nvidia-smi", "-L"], text=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return [f"{i}" for i in range(listed.count("GPU "))]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _wait(group: Sequence["subprocess.Popen[bytes]"]) -> int | None:
    """The joint code of processes; without one of them the others end soon."""
    until = float("inf")
    while any(p.poll() is None for p in group):
        now = time.monotonic()
        if any(p.poll() for p in group):
            until = min(until, now + 3 * HEARTBEAT)
        for p in group if now > until else ():
            p.kill()
        time.sleep(0.1)
    return joint_code([p.returncode for p in group])


def joint_code(codes: Sequence[int | None]) -> int | None:
    """Of processes that did one thing together.

    What cannot be carried out (2) ends the others by a signal; any other error may
    itself come from one that was lost.
    """
    if 2 in codes:
        return 2
    own = [c for c in codes if c is not None and c >= 0]
    return max(own) if len(own) == len(codes) else None


class Slurm:
    """Jobs, several as an array, submitted by submitit, which keeps their output."""

    every = 5.0

    def __init__(
        self,
        logs: Path,
        *,
        workers: int = 0,
        gpus: int = 0,
        cpus: int = 2,
        hours: float = 4.0,
        processes: int = 1,
        more: Mapping[str, str] | None = None,
    ) -> None:
        """Submits nothing yet.

        Args:
          logs: where submitit keeps scripts and output; on a disk that nodes share.
          workers: jobs of an array at a time; 0 for all.
          gpus: of each process.
          cpus: of each process.
          hours: after which Slurm ends a job; two minutes before it is told to stop.
          processes: of each job, one a node.
          more: further options of sbatch, such as partition.

        Raises:
          SandboxError: submitit or Slurm is not there.
        """
        # The signal that comes before the end: one at which our commands save.
        os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"
        try:
            import submitit  # lazily: an extra  # pyright: ignore[reportMissingImports]
        except ImportError as e:
            raise SandboxError(
                "--on slurm needs submitit: the extra slurm has it."
            ) from e
        try:
            self.executor = submitit.SlurmExecutor(logs, max_num_timeout=0)
        except RuntimeError as e:
            raise SandboxError("--on slurm: there is no Slurm on this machine.") from e
        self.executor.update_parameters(
            job_name="sandbox",
            time=max(round(60 * hours), 1),
            cpus_per_task=cpus,
            gpus_per_node=gpus or None,
            nodes=processes,
            ntasks_per_node=1,
            array_parallelism=workers or 10_000,
            signal_delay_s=120,
            stderr_to_stdout=True,
            additional_parameters=dict(more or {}),
        )
        self.together = processes
        self.jobs: list[Any] = []
        self.missed: dict[Any, float] = {}

    def submit(self, commands: Mapping[str, Sequence[str]]) -> Mapping[str, Hashable]:
        """See `Launcher`."""
        words, n = list(commands.values()), len(commands)
        rest = [os.getcwd()] * n, [self.together] * n
        try:
            jobs = self.executor.map_array(run_command, words, *rest)
        except Exception as e:  # what sbatch says, in a class of submitit's
            raise SandboxError(f"Slurm refused the jobs: {e!s:.300}") from e
        self.jobs += jobs
        for name, job in zip(commands, jobs, strict=True):
            say(f"{name}: job {job.job_id}, {job.paths.stdout}")
        return dict(zip(commands, jobs, strict=True))

    def ended(self, tickets: Iterable[Any]) -> Mapping[Hashable, int | None]:
        """A job that Slurm no longer knows and that left nothing for a while is lost.

        Without accounting only the queue tells what became of a job.
        """
        out: dict[Hashable, int | None] = {}
        waiting = []
        for job in tickets:
            if not _finished(job):
                waiting.append(job)
                continue
            try:
                out[job] = joint_code(job.results())
            except Exception as e:  # the command could not even begin
                say(f"job {job.job_id}: {e!s:.300}")
                out[job] = 1
        queued = self._queued() if waiting else None
        for job in waiting:
            if queued is None or job.job_id in queued:
                self.missed.pop(job, None)
                continue
            folder = Path(job.paths.folder)
            folder.chmod(folder.stat().st_mode)  # a shared disk looks anew
            first = self.missed.setdefault(job, time.monotonic())
            if time.monotonic() - first > LOST:
                out[job] = None
        return out

    def _queued(self) -> set[str] | None:
        """Jobs that wait or run; None where Slurm does not answer."""
        query = ["squeue", "--me", "-h", "-r", "-t", "PD,R,CG,S,CF,RQ", "-o", "%i"]
        found = subprocess.run(query, capture_output=True, text=True, check=False)
        return set(found.stdout.split()) if found.returncode == 0 else None

    def stop(self) -> None:
        """See `Launcher`."""
        for job in self.jobs:
            if not _finished(job):
                job.cancel(check=False)


def _finished(job: Any) -> bool:
    tasks = [job.task(i) for i in range(job.num_tasks)]
    return all(task.paths.result_pickle.exists() for task in tasks)


class Ray:
    """Tasks of a Ray cluster; what they print is printed here."""

    every = 0.5

    def __init__(self, *, gpus: int = 0, cpus: int = 2) -> None:
        """Joins the cluster that `RAY_ADDRESS` names, or the one on this machine.

        Raises:
          SandboxError: Ray or its cluster is not there.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray  # lazily: an extra  # pyright: ignore[reportMissingImports]
        except ImportError as e:
            raise SandboxError("--on ray needs Ray: the extra ray has it.") from e
        self.ray: Any = ray
        try:
            address = os.environ.get("RAY_ADDRESS", "auto")
            if not self.ray.is_initialized():  # by an earlier launcher
                self.ray.init(address, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as e:
            text = "--on ray: no cluster answers; start one with `ray start --head`"
            raise SandboxError(f"{text} ({e!s:.200}).") from e
        task = self.ray.remote(run_command)  # what is lost, `carry_out` gives again
        self.task = task.options(num_cpus=cpus, num_gpus=gpus, max_retries=0)
        self.refs: list[Any] = []

    def submit(self, commands: Mapping[str, Sequence[str]]) -> Mapping[str, Hashable]:
        """See `Launcher`."""
        here = os.getcwd()
        out = {n: self.task.remote(list(c), here) for n, c in commands.items()}
        self.refs += out.values()
        return out

    def ended(self, tickets: Iterable[Any]) -> Mapping[Hashable, int | None]:
        """See `Launcher`."""
        waiting, out = list(tickets), dict[Hashable, int | None]()
        if not waiting:
            return out
        ready, _ = self.ray.wait(waiting, num_returns=len(waiting), timeout=0)
        for ref in ready:
            try:
                out[ref] = self.ray.get(ref)
            except self.ray.exceptions.RayTaskError as e:  # it could not even begin
                say(f"{e!s:.300}")
                out[ref] = 1
            except self.ray.exceptions.RayError:  # its worker or node died
                out[ref] = None
        return out

    def stop(self) -> None:
        """See `Launcher`."""
        for ref in self.refs:
            self.ray.cancel(ref)
        self.ray.wait(self.refs, num_returns=len(self.refs), timeout=30)


def file_name(name: str) -> str:
    """A group's name as that of a file."""
    return re.sub(r"[^\w.-]+", "_", name)


def end_with_parent() -> None:
    """Lets what a launcher began be told to stop when its parent dies (Linux).

    Else what a dead worker of Ray or Slurm had started would go on beside the group
    that is given again. If the parent is dead already, this process ends.
    """
    if sys.platform == "linux" and WORKER in os.environ:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if f"{os.getppid()}" != os.environ[WORKER]:
            os._exit(AGAIN)


def peer() -> tuple[str, int, int] | None:
    """Address of the first process of a group, which this one is, and of how many.

    Of processes on this machine `Local` says so, of jobs Slurm; None for one alone.

    Raises:
      SandboxError: what is said makes no sense.
    """
    env = os.environ
    try:
        n = int(env.get(TOGETHER, "1"))
        if n == 1:
            return None
        if PEER in env:
            i, address = env[PEER].split()
            return address, int(i), n
        nodes = ["scontrol", "show", "hostnames", env["SLURM_JOB_NODELIST"]]
        first = subprocess.check_output(nodes, text=True).split()[0]
        port = 20_000 + int(env["SLURM_JOB_ID"]) % 20_000
        return f"{first}:{port}", int(env["SLURM_PROCID"]), n
    except (ValueError, KeyError, OSError, subprocess.CalledProcessError) as e:
        raise SandboxError(
            f"{TOGETHER} and {PEER} are for processes that `sandbox launch` begins;"
            " unset them."
        ) from e
