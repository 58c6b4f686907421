"""How many threads to use, and how the two stages share them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

#: Environment variable that sets the number of threads when the caller does not.
THREADS_VARIABLE = "POCKET_TTS_CY_THREADS"


def team_size(requested: int | None = None) -> int:
    """Number of threads that computations may use.

    Never more than the processors this process may run on: the affinity mask and the processor
    quota of its control groups are respected, because a team larger than that spends its time
    waiting at barriers for threads that are not running.

    Parameters
    ----------
    requested : int, optional
        What the caller wants. Without it the environment variable ``POCKET_TTS_CY_THREADS``
        counts, else all usable processors.

    Returns
    -------
    int
        At least 1, at most :func:`usable_cpus`.

    Raises
    ------
    ValueError
        `requested` or the environment variable is not a whole number of at least 1.
    """
    available = usable_cpus()
    if requested is not None:
        if isinstance(requested, bool) or not isinstance(requested, int) or requested < 1:
            raise ValueError(
                f"num_threads should be a whole number of at least 1, not {requested!r}"
            )
        return min(requested, available)
    text = os.environ.get(THREADS_VARIABLE, "").strip()
    if not text:
        return available
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise ValueError(f"{THREADS_VARIABLE} should be a whole number of at least 1, not {text!r}")
    return min(int(text), available)


def usable_cpus() -> int:
    """Processors that this process may keep busy, at least 1.

    The affinity mask (``taskset``, cpusets), cut to the processor quota of the control groups
    (containers), rounded down.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = cgroup_cpu_quota()
    if quota is not None:
        count = min(count, int(quota))
    return max(1, count)


def cgroup_cpu_quota(
    membership: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")
) -> float | None:
    """Processors that the control groups of this process allow.

    Parameters
    ----------
    membership : Path
        File with one ``hierarchy:controllers:path`` line per hierarchy.
    mount : Path
        Where the hierarchies are mounted: version 2 directly, version 1 one folder per
        controller.

    Returns
    -------
    float or None
        Quota divided by period, the smallest over the group and its parents; None when nothing
        is limited or the files are not there.
    """
    try:
        lines = membership.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            folders = [mount]
        elif "cpu" in controllers.split(","):
            folders = [mount / controllers, mount / "cpu"]
        else:
            continue
        for folder in folders:
            group = folder / path.lstrip("/")
            # A limit of a parent binds its children too. Inside a container the path may name
            # folders that only the host sees; their parents are then still read.
            for level in (group, *group.parents):
                quotas.append(_quota_of(level))
                if level == folder:
                    break
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_of(folder: Path) -> float | None:
    """Quota of one control group, version 2 (``cpu.max``) or 1 (``cpu.cfs_*``)."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()[:2]
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii")
        value = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        # No such file, or "max": no limit here.
        return None
    return value if value > 0 else None


@dataclass(frozen=True)
class StagePlan:
    """How the FlowLM stage and the Mimi stage share the threads of one generation.

    Up to the first frame of audio only one stage works at a time, with all threads: that is what
    the latency of the first chunk is made of. After it the stages overlap, FlowLM with all
    threads but one and Mimi with one. With a single thread nothing overlaps: groups of frames,
    each twice as long as the one before, are generated and then decoded.

    Attributes
    ----------
    num_threads : int
        Threads of the whole generation.
    max_group : int
        Largest number of frames that are decoded in one call.
    """

    num_threads: int
    max_group: int

    @property
    def overlap(self) -> bool:
        """Whether the two stages work at the same time after the first frame."""
        return self.num_threads > 1

    @property
    def alone(self) -> int:
        """Threads of a stage while the other one waits or has finished."""
        return self.num_threads

    @property
    def flow_lm(self) -> int:
        """Threads of FlowLM while the stages overlap."""
        return max(1, self.num_threads - 1)

    @property
    def mimi(self) -> int:
        """Threads of Mimi while the stages overlap."""
        return 1

    def group(self, frames_decoded: int) -> int:
        """Frames to generate before the next decode call when the stages take turns.

        Parameters
        ----------
        frames_decoded : int
            Frames of the generation that are already decoded.

        Returns
        -------
        int
            1 at first, then as many as were decoded so far, at most `max_group`: the listener
            never waits for longer than about the audio already delivered.
        """
        return max(1, min(frames_decoded, self.max_group))
