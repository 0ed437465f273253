"""Many runs on one machine: some at a time, each recorded once, until all are done or time is up.

    python -m smf_lib.study run --profile frontier --jobs 4 --seconds 3500

Worker processes take one run after another, so that imports and data are paid for once. They share
the processor's cores, and the GPU where there is one. What is finished is not repeated; a run that
was ended goes on from its checkpoint when the same command is given again. What a run prints goes
to work/<profile>/logs/<run>.log.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any, cast

import torch
from filelock import Timeout
from tqdm import tqdm

from .kept import RunFiles, what_is_left
from .keys import parent_of
from .materials import Materials
from .notebooks import PlainLines, end_with_parent
from .profiles import Profile, RunSpec
from .records.record import Record
from .training import processes

GRACE_SECONDS = 10.0  # how long after the limit a run may still end by itself
TAKEN = "is being run by another process"
# By default glibc gives every large buffer back to the kernel and gets it again, page by page, at
# the next step; on a processor that is a fifth of a training step of SmolLM2. Results do not depend
# on it. Buffers above 256 MiB still go back: kept, they leave holes that the next, larger one does
# not fit into: full finetuning of half a billion parameters ran out of 24 GiB, and takes 20 so.
ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": str(2**28), "MALLOC_TRIM_THRESHOLD_": str(2**33)}


def chosen_runs(
    profile: Profile,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    learning_rate: float | None = None,
) -> list[RunSpec]:
    """The profile's runs of these methods, in the order of `methods`; None stands for all.

    Without `methods` they come in the profile's order. Other seeds, or another learning rate, than
    the profile's are put in the place of its own.

    Raises:
        ValueError: a method, seed or learning rate that cannot be; see `Profile.run`.
    """
    found = {}
    named = [stage for name in methods or profile.methods for stage in profile.stages_of(name)]
    for method in dict.fromkeys(named):
        if method not in profile.methods:
            profile.run(method)  # says which methods there are
        for spec in profile.runs():
            if spec.method != method:
                continue
            trained = spec.settings.kind != "base"
            rate = learning_rate if trained and learning_rate is not None else spec.learning_rate
            for seed in seeds or [spec.seed]:
                run = profile.run(method, seed, rate)
                found[run.run_id] = run
    return list(found.values())


def metric_lines(record: Record | None) -> list[str]:
    """What a run was measured to be, a line a metric; none in a process that did not measure it."""
    return [
        f"{name} {metric.value:.4g} (standard error {metric.stderr:.2g}, n {metric.n})"
        for name, metric in (record.metrics.items() if record else ())
    ]


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a study, `profile` being the name or path that the study was loaded by."""

    profile: str
    study: Materials
    spec: RunSpec
    also: tuple[Job, ...] = ()  # runs of other profiles that are trained with it, once for all

    @property
    def names(self) -> list[str]:
        """The run's name and those of the runs that are trained with it."""
        return [self.name, *(job.name for job in self.also)]

    @property
    def name(self) -> str:
        """The profile's name and the run's."""
        return f"{self.study.profile.name}/{self.spec.run_id}"

    @property
    def log(self) -> Path:
        """The file for what the run prints."""
        return self.study.work / "logs" / f"{self.spec.run_id}.log"

    @property
    def parent(self) -> Job | None:
        """The run that this one goes on from."""
        spec = parent_of(self.study.profile, self.spec)
        return None if spec is None else dataclasses.replace(self, spec=spec, also=())

    @property
    def is_done(self) -> bool:
        """Whether its record, and those of the runs that are trained with it, are current."""
        return all(what_is_left(job.study, job.spec).nothing for job in (self, *self.also))

    @property
    def has_weights(self) -> bool:
        """Whether what the run trained is kept."""
        return RunFiles.of(self.study, self.spec).weights is not None

    @property
    def epochs(self) -> int:
        """How often the run reads its training rows; 0 for the base model."""
        if self.spec.settings.kind == "base":
            return 0
        return self.study.profile.training_of(self.spec.settings).epochs


@dataclasses.dataclass
class Outcome:
    """What became of the runs: names, with the reason where there is one."""

    before: list[str] = dataclasses.field(default_factory=list)
    done: list[str] = dataclasses.field(default_factory=list)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    ended: list[str] = dataclasses.field(default_factory=list)
    not_started: dict[str, str] = dataclasses.field(default_factory=dict)
    interrupted: bool = False

    def lines(self) -> list[str]:
        """What there is to say at the end."""
        lines = [f"done: {len(self.done)} runs; done before: {len(self.before)}"]
        lines += [f"failed: {name}: {error}" for name, error in self.failed.items()]
        if self.ended:
            lines.append(
                f"ended before it was done: {', '.join(self.ended)} (the same command goes on)"
            )
        for reason in dict.fromkeys(self.not_started.values()):
            names = [name for name, why in self.not_started.items() if why == reason]
            lines.append(f"not started, {reason}: {', '.join(names)}")
        return lines


def check_limits(workers: int, seconds: float | None = None) -> None:
    """Raise ValueError unless so many runs at a time, for so long, can be."""
    for name, value in {"jobs": workers, "seconds": seconds}.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value:g} must be more than 0; name another, or leave it out")
    if processes.count() > 1:
        raise ValueError(
            f"jobs={workers}: here are {processes.count()} processes that share each batch; start "
            "one of them alone, or leave --jobs out"
        )


def run_many(jobs: Sequence[Job], workers: int, seconds: float | None = None) -> Outcome:
    """Do what is left of the runs, `workers` at a time, base models first, and show one bar.

    Args:
        jobs: the runs, what matters most first.
        workers: how many processes share this machine.
        seconds: how long there is. No run is begun that would take longer, judging by the longest
            of its profile so far; what is still running a little later is ended.
    """
    jobs = sorted(jobs, key=lambda job: job.epochs > 0)
    return _Runs(jobs, workers, seconds).work_off()


# ---------------------------------------------------------------------- who runs what, and when


class _Runs:
    """Runs that wait, are running and are done, and the workers that do them."""

    def __init__(self, jobs: list[Job], workers: int, seconds: float | None):
        self.outcome = Outcome()
        left = [job for job in jobs if not job.is_done]
        self.outcome.before += [job.name for job in jobs if job not in left]
        self.waiting = {job.name: job for job in _trained_once(left)}
        self.most = min(workers, len(self.waiting))
        self.threads = max(1, _cores() // workers)
        self.workers: list[_Worker] = []
        self.took: list[tuple[Job, float]] = []
        self.deadline = None if seconds is None else time.monotonic() + seconds

    def work_off(self) -> Outcome:
        """Do what can be done, then end the workers."""
        with _bar(_count(self.waiting.values())) as bar:
            try:
                while self._hand_out() or self.running:
                    if (
                        self.deadline is not None
                        and time.monotonic() > self.deadline + GRACE_SECONDS
                    ):
                        break
                    self._listen()
                    undone = [*self.waiting.values(), *(job for _, job in self.running)]
                    bar.n = bar.total - _count(undone) - len(self.outcome.ended)
                    bar.set_postfix_str(self._time_left(), refresh=False)
                    bar.refresh()
            except KeyboardInterrupt:
                self.outcome.interrupted = True
                self._leave_out(self.waiting, "interrupted")
            finally:
                for _, job in self.running:
                    self.outcome.ended += job.names
                for worker in self.workers:
                    worker.end()
        late = {name: job for name, job in self.waiting.items() if not self._fits(job)}
        self._leave_out(late, "the time is short")
        self._leave_out(self.waiting, "the run that it goes on from is not there")
        return self.outcome

    @property
    def running(self) -> list[tuple[_Worker, Job]]:
        """The workers that are at work, each with its run."""
        return [(worker, worker.job) for worker in self.workers if worker.job is not None]

    def _hand_out(self) -> bool:
        """Give a run to each worker that has none; whether any was given."""
        given = False
        while len(self.running) < self.most and (job := self._next()) is not None:
            self.workers = [w for w in self.workers if w.job is not None or w.process.is_alive()]
            idle = [worker for worker in self.workers if worker.job is None]
            if not idle:
                idle = [_Worker(self.threads)]
                self.workers += idle
            del self.waiting[job.name]
            if job.is_done:  # another process has done it meanwhile
                self.outcome.before += job.names
                continue
            idle[0].start(job)
            given = True
        return given

    def _next(self) -> Job | None:
        """The first run that can be begun, if any."""
        for job in self.waiting.values():
            if self._fits(job) and not self._waits_for_parent(job):
                return job
        return None

    def _fits(self, job: Job) -> bool:
        """Whether a run would be done in time; one like which there was none so far is tried."""
        if self.deadline is None:
            return True
        now = time.monotonic()
        going = [now - worker.started for worker, own in self.running if _alike(job, own)]
        return now + max(_known(job, self.took) + going, default=0.0) < self.deadline

    def _waits_for_parent(self, job: Job) -> bool:
        """Whether the run that this one goes on from is to be recorded or trained before it."""
        parent = job.parent
        if parent is None:
            return False
        begun = [own for _, own in self.running]
        undone = {name for other in (*self.waiting.values(), *begun) for name in other.names}
        undone |= {*self.outcome.failed, *self.outcome.not_started}
        if parent.name in undone:
            return True
        siblings = [own.parent.name for own in begun if own.parent is not None]
        return parent.name in siblings and not parent.has_weights

    def _listen(self) -> None:
        """Wait a second at most for what workers report."""
        running = {worker.pipe: (worker, job) for worker, job in self.running}
        for ready in connection.wait(list(running), timeout=1.0):
            worker, job = running[cast("connection.Connection", ready)]
            error, seconds = worker.result()
            if error is None:
                self.outcome.done += job.names
                self.took.append((job, seconds))
            elif error == TAKEN:
                self.outcome.not_started |= dict.fromkeys(job.names, f"since it {TAKEN}")
            else:
                self.outcome.failed |= dict.fromkeys(job.names, f"{error} (see {job.log})")
                self.workers.remove(worker)  # what an error leaves in memory goes with it
                worker.end()

    def _leave_out(self, jobs: dict[str, Job], reason: str) -> None:
        for job in list(jobs.values()):
            self.outcome.not_started |= dict.fromkeys(job.names, reason)
            self.waiting.pop(job.name, None)

    def _time_left(self) -> str:
        """How long all will take, judging by the mean of what is done."""

        def expected(job: Job) -> float:
            known = _known(job, self.took) or everything
            return sum(known) / len(known)

        if not self.took:
            return "time left unknown"
        everything = [seconds for _, seconds in self.took]
        left = sum(map(expected, self.waiting.values()))
        for worker, job in self.running:
            left += max(0.0, expected(job) - (time.monotonic() - worker.started))
        return f"about {tqdm.format_interval(round(left / self.most))} left"


def _alike(job: Job, other: Job) -> bool:
    """Whether two runs take about as long."""
    return job.profile == other.profile and job.epochs == other.epochs


def _known(job: Job, took: list[tuple[Job, float]]) -> list[float]:
    """Seconds of runs like this one; where there are none, of its profile's, by their epochs."""
    alike = [seconds for other, seconds in took if _alike(job, other)]
    if alike or not job.epochs:
        return alike
    trained = [(o, s) for o, s in took if o.profile == job.profile and o.epochs]
    return [seconds * job.epochs / other.epochs for other, seconds in trained]


def _trained_once(jobs: Sequence[Job]) -> list[Job]:
    """The runs, those of other profiles with the training of an earlier one put to that one."""
    groups: dict[Path, list[Job]] = {}
    for job in jobs:
        groups.setdefault(RunFiles.of(job.study, job.spec).folder, []).append(job)
    found = []
    for group in groups.values():
        first = next(filter(_keeps, group), group[0])  # who keeps weights trains
        also = tuple(job for job in group if job is not first)
        found.append(dataclasses.replace(first, also=also))
    return found


def _keeps(job: Job) -> bool:
    """Whether the weights that a run trains are kept."""
    return RunFiles.of(job.study, job.spec).keeps


def _count(jobs: Iterable[Job]) -> int:
    return sum(len(job.names) for job in jobs)


def _bar(total: int) -> tqdm:
    """The bar on standard error; where that is no terminal, a plain line now and then."""
    file = sys.stderr if sys.stderr.isatty() else PlainLines("runs", [sys.stderr])
    form = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
    return tqdm(total=total, file=file, bar_format=form, unit="run", mininterval=0.0)


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# ---------------------------------------------------------------------- workers


class _Worker:
    """A process that does one run after another, and the run that it does now."""

    def __init__(self, threads: int):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs,))
        settings = {**ALLOCATION, "OMP_NUM_THREADS": str(threads)}
        with _environment({n: v for n, v in settings.items() if n not in os.environ}):
            self.process.start()
        theirs.close()
        self.job: Job | None = None
        self.started = 0.0

    def start(self, job: Job) -> None:
        """Give the worker a run."""
        self.job, self.started = job, time.monotonic()
        runs = [
            (one.profile, one.study.root, one.spec.method, one.spec.seed, one.spec.learning_rate)
            for one in (job, *job.also)
        ]
        with contextlib.suppress(BrokenPipeError):  # it has ended; `result` says so
            self.pipe.send((runs, job.log))

    def result(self) -> tuple[str | None, float]:
        """The error with which the run ended, None if it is done; and how many seconds it took."""
        self.job = None
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            status = self.process.exitcode
            killed = ", most likely because memory ran out" if status == -signal.SIGKILL else ""
            return f"its process ended with status {status}{killed}", 0.0

    def end(self) -> None:
        """End the process, at once if it is at work."""
        if self.job is None:
            with contextlib.suppress(OSError):
                self.pipe.send(None)
            self.process.join(timeout=5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Variables for the processes that are started meanwhile."""
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in settings:
            del os.environ[name]


def _work(pipe: connection.Connection) -> None:
    """A worker: do the runs that come through the pipe; answer as `_run` does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started it ends it
    end_with_parent()
    tqdm.set_lock(
        threading.RLock()
    )  # its own is of all processes, and left behind by one that ends
    plain = PlainLines("", [sys.stderr])
    sys.stderr = plain
    studies: dict[str, Any] = {}  # of `Study`, by the name or path it was loaded by
    with contextlib.suppress(EOFError):
        while (task := pipe.recv()) is not None:
            runs, log = task
            plain.name = log.stem
            _print_to(log)
            pipe.send(_run(studies, runs))


def _run(studies: dict, runs: list[tuple]) -> tuple[str | None, float]:
    """Do one run, and measure those that are trained with it.

    Returns None or the error in one line, and the seconds without the worker's own start.
    """
    from .study import Study, run  # with the evaluation harness, which is slow to import

    started, error = time.monotonic(), None
    try:
        found = []
        for profile, root, *which in runs:
            if profile not in studies:
                studies[profile] = Study.load(profile, root)
            found.append((studies[profile], studies[profile].profile.run(*which)))
        (study, spec), *others = found
        _forget()
        started = time.monotonic()
        with RunFiles.of(study, spec).lock.acquire(timeout=0):
            record = run(study, spec, others)
        for line in metric_lines(record):
            print(line)
    except Timeout:
        error = TAKEN
    except Exception as raised:  # noqa: BLE001  (of any kind: the other runs go on)
        traceback.print_exc()
        error = f"{type(raised).__name__}: {' '.join(str(raised).split()) or 'no message'}"
    sys.stdout.flush()
    return error, time.monotonic() - started


def _print_to(log: Path) -> None:
    """Let what this process prints, its libraries too, go to the end of a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)


def _forget() -> None:
    """Give back the memory of the run before, and begin its peak anew.

    On a Mac the peak of a process cannot be begun anew: there a run is given the largest so far.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        with contextlib.suppress(OSError):  # see `man 5 proc`, clear_refs
            Path("/proc/self/clear_refs").write_text("5")
