"""Does an hour of video cost more memory than ten seconds: peak of the run's process and its worker together.

Each run is a process of its own (``python -m benchmarks.extract.memory ROOT FILM STEPS``), watched from outside.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.extract.films import write_long_film
from benchmarks.extract.plan import Plan
from benchmarks.report import Figure, Row

_WORKER = b"supportset.extract.workers.decode_worker"
_MOST = 1.1
_WATCH_SECONDS = 0.05


def measure(plan: Plan) -> Figure:
    """Peak memory on both films, one frame a second, every one of them."""
    sizes = plan.sizes
    width, height = sizes.large_shape
    figure = Figure(
        "memory",
        f"Memory of a {sizes.long_seconds:,} s video of {width}x{height} beside one of {sizes.short_seconds} s",
        sizes={"long_s": sizes.long_seconds, "short_s": sizes.short_seconds, "workers": 1, "fps": 1},
    )
    if not Path("/proc/self/status").exists():
        figure.notes.append("left out: the peak of other processes is only told by Linux")
        return figure
    peaks: dict[str, tuple[float, float]] = {}
    for name, seconds in (("short", sizes.short_seconds), ("long", sizes.long_seconds)):
        film = write_long_film(plan.folder / f"{name}.mp4", seconds, sizes.large_shape)
        plan.tell(f"memory: extracting the {name} film, {film.stat().st_size / 1e6:,.0f} MB")
        since = time.perf_counter()
        peaks[name] = _peaks([sys.executable, "-m", __spec__.name, str(plan.folder / f"{name}-store"), str(film)])
        figure.notes.append(
            f"{name}: {peaks[name][0] / 1e6:,.0f} MB in the run's process, {peaks[name][1] / 1e6:,.0f} MB in its "
            f"worker; {time.perf_counter() - since:.0f} s"
        )
    for place, part in enumerate(("run", "worker")):
        ratio = peaks["long"][place] / peaks["short"][place]
        figure.rows.append(
            Row(f"memory.{part}/short", f"long film, the {part}'s process", "short film", ratio, "x the memory")
        )
    ratio = sum(peaks["long"]) / sum(peaks["short"])
    figure.rows.append(
        Row("memory.long/short", "long film, both processes", "short film", ratio, "x the memory", at_most=_MOST)
    )
    return figure


def _peaks(command: list[str]) -> tuple[float, float]:
    """Highest memory in bytes of a process, and of the largest that it started."""
    process = subprocess.Popen(command)
    own, children = 0, dict[int, int]()
    while process.poll() is None:
        own = max(own, _high_water(process.pid))
        for child in _workers(process.pid):
            children[child] = max(children.get(child, 0), _high_water(child))
        time.sleep(_WATCH_SECONDS)
    if process.returncode:
        raise RuntimeError(f"the run ended with {process.returncode}: {' '.join(command)}")
    return own, max(children.values(), default=0)


def _high_water(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def _workers(pid: int) -> list[int]:
    """Decode workers of a process; until it runs their program, a new process still counts its parent's memory."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
            found += [child for child in children if _WORKER in Path(f"/proc/{child}/cmdline").read_bytes()]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def main(root: Path, film: Path) -> None:
    """Extract one film."""
    from benchmarks.extract.store import dataset_of, run
    from benchmarks.extract.tiny import Means
    from supportset.extract.decode.sampling import Sampling

    run(
        root,
        dataset_of(root, [film]),
        [film],
        Means(),
        Sampling(fps=1.0, max_steps=100_000),
        workers=1,
        device="cpu",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
