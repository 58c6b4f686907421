"""Team sizes and the sharing of threads between the stages."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pocket_tts_cy import threads
from pocket_tts_cy.threads import StagePlan, cgroup_cpu_quota, team_size, usable_cpus


@pytest.fixture(autouse=True)
def _eight_free_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POCKET_TTS_CY_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "cgroup_cpu_quota", lambda: None)


def test_all_usable_processors_by_default() -> None:
    assert team_size() == 8


@pytest.mark.parametrize(("requested", "expected"), [(1, 1), (3, 3), (8, 8), (64, 8)])
def test_a_request_is_cut_to_the_processors(requested: int, expected: int) -> None:
    assert team_size(requested) == expected


@pytest.mark.parametrize("requested", [0, -2, 1.5, "2", True])
def test_a_senseless_request_is_refused(requested: object) -> None:
    with pytest.raises(ValueError, match="num_threads"):
        team_size(requested)  # type: ignore[arg-type]


def test_environment_counts_only_without_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POCKET_TTS_CY_THREADS", " 5 ")
    assert team_size() == 5
    assert team_size(2) == 2
    monkeypatch.setenv("POCKET_TTS_CY_THREADS", "99")
    assert team_size() == 8
    monkeypatch.setenv("POCKET_TTS_CY_THREADS", "")
    assert team_size() == 8


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "²"])
def test_senseless_environment_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("POCKET_TTS_CY_THREADS", value)
    with pytest.raises(ValueError, match="POCKET_TTS_CY_THREADS"):
        team_size()


@pytest.mark.parametrize(("quota", "expected"), [(0.5, 1), (1.0, 1), (2.9, 2), (100.0, 8)])
def test_quota_of_a_container(monkeypatch: pytest.MonkeyPatch, quota: float, expected: int) -> None:
    monkeypatch.setattr(threads, "cgroup_cpu_quota", lambda: quota)
    assert usable_cpus() == expected


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="ascii")


def test_cgroup_version_2_takes_the_tightest_level(tmp_path: Path) -> None:
    membership, mount = tmp_path / "cgroup", tmp_path / "fs"
    _write(membership, "0::/user/job\n")
    _write(mount / "user/job/cpu.max", "max 100000\n")
    _write(mount / "user/cpu.max", "150000 100000\n")
    assert cgroup_cpu_quota(membership, mount) == 1.5
    _write(mount / "user/job/cpu.max", "50000 100000\n")
    assert cgroup_cpu_quota(membership, mount) == 0.5


def test_cgroup_version_2_inside_a_container(tmp_path: Path) -> None:
    # The path names folders of the host; the container's own root is what is mounted.
    membership, mount = tmp_path / "cgroup", tmp_path / "fs"
    _write(membership, "0::/kubepods/pod7\n")
    _write(mount / "cpu.max", "300000 100000\n")
    assert cgroup_cpu_quota(membership, mount) == 3.0


@pytest.mark.parametrize("folder", ["cpu,cpuacct", "cpu"])
def test_cgroup_version_1(tmp_path: Path, folder: str) -> None:
    membership, mount = tmp_path / "cgroup", tmp_path / "fs"
    _write(membership, "5:memory:/m\n4:cpu,cpuacct:/docker/abc\n")
    _write(mount / folder / "docker/abc/cpu.cfs_quota_us", "200000\n")
    _write(mount / folder / "docker/abc/cpu.cfs_period_us", "100000\n")
    _write(mount / folder / "cpu.cfs_quota_us", "-1\n")
    _write(mount / folder / "cpu.cfs_period_us", "100000\n")
    assert cgroup_cpu_quota(membership, mount) == 2.0


def test_no_or_damaged_cgroup_files_mean_no_limit(tmp_path: Path) -> None:
    membership, mount = tmp_path / "cgroup", tmp_path / "fs"
    assert cgroup_cpu_quota(membership, mount) is None
    _write(membership, "garbage\n0::/a\n")
    assert cgroup_cpu_quota(membership, mount) is None
    _write(mount / "a/cpu.max", "100000 0\n")
    assert cgroup_cpu_quota(membership, mount) is None
    _write(mount / "a/cpu.max", "\n")
    assert cgroup_cpu_quota(membership, mount) is None


def test_plan_of_one_thread_takes_turns_in_doubling_groups() -> None:
    plan = StagePlan(1, 16)
    assert not plan.overlap
    decoded, groups = 0, []
    while decoded < 64:
        groups.append(plan.group(decoded))
        decoded += groups[-1]
    assert groups == [1, 1, 2, 4, 8, 16, 16, 16]


@pytest.mark.parametrize("num_threads", [2, 3, 8])
def test_plan_of_more_threads_overlaps(num_threads: int) -> None:
    plan = StagePlan(num_threads, 16)
    assert plan.overlap
    assert plan.group(0) == 1
    assert plan.alone == num_threads
    assert plan.flow_lm + plan.mimi == num_threads
