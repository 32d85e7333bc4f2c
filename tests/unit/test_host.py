import mmap
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from vigmpi import host
from vigmpi.control_groups import CpuQuota


def test_cores_are_divided_evenly_among_the_ranks_that_share_them() -> None:
    both, none = frozenset({0, 1}), CpuQuota(float("inf"), "")
    assert host.threads_per_rank([both] * 4, [none] * 4, 0) == 1
    assert host.threads_per_rank([both], [none], 0) == 2
    assert host.threads_per_rank([frozenset(range(8))] * 4, [none] * 4, 2) == 2
    # With a launcher that binds ranks, each rank has all its cores to itself.
    assert host.threads_per_rank([both, frozenset({2, 3, 4, 5})], [none] * 2, 1) == 4


def test_a_quota_is_divided_among_the_ranks_of_its_group() -> None:
    cores, quota = [frozenset(range(8))] * 4, CpuQuota(4.5, "a")
    assert [host.threads_per_rank(cores[:n], [quota] * n, 0) for n in (1, 2, 4)] == [4, 2, 1]
    assert host.threads_per_rank(cores[:1], [CpuQuota(0.5, "a")], 0) == 1
    own = [CpuQuota(3.0, name) for name in "abcd"]
    assert host.threads_per_rank(cores, own, 0) == 2


def test_memory_figures_agree_with_those_of_the_system() -> None:
    available = host.available_bytes()
    assert 0 < available <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    before = host.resident_bytes()
    with mmap.mmap(-1, 50_000_000) as block:  # the heap may have room left
        block.write(bytes(50_000_000))
        assert host.resident_bytes() - before > 45e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert before + 45e6 < host.peak_rss_bytes() <= 1.1 * peak


@pytest.mark.parametrize(
    ("text", "library", "bfloat16"),
    [
        ("vendor_id\t: GenuineIntel\nflags\t\t: fpu avx512_bf16 amx_bf16\n", "blas", True),
        ("vendor_id\t: GenuineIntel\nflags\t\t: fpu avx2\n", "blas", False),
        ("vendor_id\t: AuthenticAMD\nflags\t\t: avx512_bf16\n", "onednn", True),
        ("processor : 0\nFeatures  : fp asimd bf16 i8mm\n", "blas", True),
        ("", "blas", False),
    ],
)
def test_the_processor_determines_the_library_of_products_and_bfloat16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, library: str, bfloat16: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(host, "_CPU_INFO", tmp_path / "cpuinfo")
    assert host.matmul_library() == library
    assert host.has_bfloat16_instructions() == bfloat16


@pytest.mark.parametrize(("option", "name"), [("-v", "VmSize"), ("-d", "VmData")])
def test_the_limits_of_a_process_leave_what_it_has_not_used(option: str, name: str) -> None:
    program = (
        "from vigmpi import host; print(host.process_headroom_bytes(), "
        f"host._proc_bytes('/proc/self/status', '{name}'))"
    )
    command = ["sh", "-c", f'ulimit {option} 4000000; "$@"', "sh", sys.executable, "-c", program]
    output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    headroom, used = map(float, output.split())
    assert headroom + used == pytest.approx(4_096_000_000, rel=0.01)
