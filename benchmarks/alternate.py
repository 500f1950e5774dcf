"""Runs contestants in turn, each measurement in a fresh process, and prints medians with their spread."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread

import psutil

Measurement = dict[str, float]
Job = Callable[[int], Measurement]  # takes the number of the repetition, from 1
PACKAGES = ("torch", "torchvision", "timm", "pillow", "mlflow", "mlflow_resnet")
MEMORY = "peak MiB"
WORKER_MEMORY = "largest worker MiB"
REPETITION = "repetition"
OURS = {"OMP_WAIT_POLICY": "passive"}  # what our command line sets


def alternate(jobs: Mapping[str, Job], repetitions: int) -> dict[str, list[Measurement]]:
    """Every job once, then every job again: whatever else the machine does, it does to all of them.

    A job that fails has fewer measurements and costs the others nothing; which failed is printed at the end.
    """
    results: dict[str, list[Measurement]] = {name: [] for name in jobs}
    for repetition in range(1, repetitions + 1):
        for name, job in jobs.items():
            try:
                with environment(OURS if name.startswith(("ours", "limit")) else {}):
                    measurement = in_fresh_process(job, repetition)
            except Exception as error:
                say(f"{name}: failed ({type(error).__name__}: {error})")
                continue
            results[name].append(measurement | {REPETITION: repetition})
            say(f"{repetition}/{repetitions} {name}: {one_line(measurement)}")
    for name, measurements in results.items():
        if len(measurements) < repetitions:
            print(f"{name}: {repetitions - len(measurements)} of {repetitions} repetitions failed")
    return results


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables for the processes that are started meanwhile."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def in_fresh_process(job: Job, repetition: int = 1) -> Measurement:
    """Runs `job` in a process of its own, so that neither memory nor warm caches pass from one to the next."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(with_memory, job, repetition).result()


def with_memory(job: Job, repetition: int) -> Measurement:
    """Adds the peak resident memory of this process and of the largest of its workers."""
    workers = WorkerWatch()
    measurement = job(repetition)
    return measurement | {MEMORY: high_water_mib(os.getpid()), WORKER_MEMORY: workers.stop()}


class WorkerWatch:
    """Looks every second at how much memory the processes below this one have held at most.

    `getrusage` cannot say: it counts the memory that a process had inherited before it became another program.
    """

    def __init__(self) -> None:
        self.largest = 0.0
        self.stopped = Event()
        Thread(target=self.watch, daemon=True).start()

    def watch(self) -> None:
        while not self.stopped.wait(1):
            self.look()

    def look(self) -> None:
        for child in psutil.Process().children():
            self.largest = max(self.largest, high_water_mib(child.pid))

    def stop(self) -> float:
        self.look()
        self.stopped.set()
        return self.largest


def high_water_mib(pid: int) -> float:
    """VmHWM of a process; 0 if it has just ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


def values_of(measurements: Sequence[Measurement], name: str) -> list[float]:
    """One quantity of every repetition that has it."""
    return [measurement[name] for measurement in measurements if name in measurement]


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median and range, such as `13.2 [11.2..13.6]`."""
    if not values:
        return "-"
    middle, low, high = (f"{v:.{digits}f}" for v in (statistics.median(values), min(values), max(values)))
    return f"{middle} [{low}..{high}]"


def mean_and_deviation(fractions: Sequence[float]) -> str:
    """Mean and standard deviation over seeds, in percent."""
    if not fractions:
        return "-"
    deviation = f" ± {100 * statistics.stdev(fractions):.2f}" if len(fractions) > 1 else ""
    return f"{100 * statistics.mean(fractions):.2f}{deviation}"


def paired_difference(ours: Sequence[Measurement], other: Sequence[Measurement], name: str) -> str:
    """Mean of the differences seed by seed, in points, with its standard error."""
    theirs = {measurement[REPETITION]: measurement[name] for measurement in other}
    pairs = [(one[name], theirs[one[REPETITION]]) for one in ours if one[REPETITION] in theirs]
    differences = [100 * (own - their) for own, their in pairs]
    if len(differences) < 2:
        return "-"
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return f"{statistics.mean(differences):+.2f} (s.e. {error:.2f})"


def ratio(ours: Sequence[float], peer: Sequence[float]) -> str:
    """Ours to peer, of the medians."""
    return f"x{statistics.median(ours) / statistics.median(peer):.2f}" if ours and peer else "-"


def memory(measurements: Sequence[Measurement]) -> str:
    """Highest peak of the main process in any repetition, and of the largest worker if there was one."""
    if not measurements:
        return "-"
    main, worker = (max(values_of(measurements, name)) for name in (MEMORY, WORKER_MEMORY))
    return f"{main:.0f}" + (f" + {worker:.0f} per worker" if worker else "")


def growth(peaks: Sequence[Sequence[float]]) -> str:
    """From the median of the first to that of the last, such as `+12`."""
    return f"{statistics.median(peaks[-1]) - statistics.median(peaks[0]):+.0f}" if all(peaks) else "-"


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table that also reads well on a terminal."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    rule = ["-" * width for width in widths]
    print(f"\n{title}\n")
    for row in [header, rule, *rows]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
    sys.stdout.flush()


def print_machine() -> None:
    """What the numbers depend on. A load well above 0 before the start says that the machine was not idle."""
    versions = ", ".join(f"{package} {version_of(package)}" for package in PACKAGES)
    print(f"CPU: {cpu_model()}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB")
    print(f"Python {platform.python_version()}, {versions}")
    print(f"load average before the start: {os.getloadavg()[0]:.1f}", flush=True)


def version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def cpu_model() -> str:
    """Name of the processor and those of its instruction sets that matter to training in bf16."""
    facts = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    flags = [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if flag in facts.get("flags", "").split()]
    return " ".join([facts.get("model name", platform.machine()), f"({', '.join(flags) or 'no AVX-512'})"])


def one_line(measurement: Measurement) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in measurement.items())


def say(sentence: str) -> None:
    """Progress, on stderr."""
    print(sentence, file=sys.stderr, flush=True)
