"""The cores of a container are those of its quota."""

import os
from pathlib import Path

import pytest

from service.cpu import Share, divide, suggested_workers, usable_cores

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


@pytest.mark.parametrize(
    ("workers", "shares"),
    [
        (1, [(4, (0, 1, 2, 3))]),
        (2, [(2, (0, 1)), (2, (2, 3))]),
        (3, [(1, (0,)), (1, (1,)), (2, (2, 3))]),
        (4, [(1, (0,)), (1, (1,)), (1, (2,)), (1, (3,))]),
        (5, [(1, ())] * 5),
    ],
)
def test_cores_are_divided_among_workers_which_are_bound_to_theirs_where_there_are_enough(
    tmp_path: Path, workers: int, shares: list[tuple[int, tuple[int, ...]]]
) -> None:
    assert divide(workers, {0, 1, 2, 3}, tmp_path, tmp_path) == [Share(*share) for share in shares]


@pytest.mark.parametrize(
    ("cpu_max", "workers", "threads"),
    [("250000 100000", 2, [1, 2]), ("250000 100000", 4, [1, 1, 1, 1]), ("800000 100000", 2, [4, 4])],
)
def test_under_a_quota_it_gives_the_threads_and_no_worker_is_bound(
    tmp_path: Path, cpu_max: str, workers: int, threads: list[int]
) -> None:
    (tmp_path / "cpu.max").write_text(cpu_max)
    assert divide(workers, range(16), tmp_path, tmp_path) == [Share(count, ()) for count in threads]


def test_a_quota_of_all_cores_limits_nothing(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("200000 100000")
    assert divide(2, {4, 7}, tmp_path, tmp_path) == [Share(1, (4,)), Share(1, (7,))]


def test_hardware_threads_of_one_core_stay_together(tmp_path: Path) -> None:
    """Four cores with two hardware threads each, numbered as many machines do: 0 and 4 are one core."""
    for thread in range(8):
        folder = tmp_path / f"cpu{thread}" / "topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text("0\n")
        (folder / "core_id").write_text(f"{thread % 4}\n")
    assert [share.cores for share in divide(2, range(8), tmp_path, tmp_path)] == [(0, 1, 4, 5), (2, 3, 6, 7)]


def test_the_cores_of_this_process_are_what_is_divided() -> None:
    assert sum(share.threads for share in divide(1)) == usable_cores()


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 1), (3, 1), (4, 2), (64, 32)])
def test_auto_is_a_worker_for_each_two_cores(cores: int, workers: int) -> None:
    assert suggested_workers(cores) == workers
