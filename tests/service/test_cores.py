"""The cores of a container are those of its quota."""

import os
from pathlib import Path

import pytest

from service.cores import usable_cores

AFFINITY = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("cpu_max", "cores"),
    [
        ("max 100000", AFFINITY),
        ("50000 100000", 1),
        ("100000 100000", 1),
        ("100001 100000", min(2, AFFINITY)),
        ("99900000 100000", AFFINITY),
        ("nonsense", AFFINITY),
    ],
)
def test_the_quota_of_cgroup_2_is_rounded_up(tmp_path: Path, cpu_max: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(cpu_max)
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", AFFINITY), ("30000", 1)])
def test_the_quota_of_cgroup_1_counts_too(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert usable_cores(tmp_path) == cores


def test_without_a_cgroup_the_affinity_decides(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == AFFINITY
