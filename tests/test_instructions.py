"""When instructions that have grown are an error, on counts that nobody had to take."""

from __future__ import annotations

import pytest

from benchmarks.instructions import compare

KEPT = {"read": 1_000, "write": 1_000}


@pytest.mark.parametrize(
    ("counts", "failed"),
    [
        ({"read": 1_049, "write": 1_000}, 0),
        ({"read": 1_051, "write": 1_000}, 1),
        ({"read": 500, "write": 1_000}, 0),
        ({"read": 1_000}, 1),
        ({**KEPT, "open": 1}, 1),
    ],
    ids=["within noise", "grown", "fewer", "gone", "new"],
)
def test_a_count_may_not_grow_beyond_noise_nor_be_left_out(counts: dict[str, int], failed: int) -> None:
    assert compare(counts, KEPT, binding=True) == failed


def test_counts_of_another_compiler_bind_nobody() -> None:
    assert compare({"read": 2_000, "write": 2_000}, KEPT, binding=False) == 0


def test_a_case_that_has_grown_is_pointed_out(capsys: pytest.CaptureFixture[str]) -> None:
    compare({"read": 1_100, "write": 900}, KEPT, binding=True)
    read, write, *_ = capsys.readouterr().out.splitlines()
    assert read.split() == ["read", "1,100", "instructions", "+10.0%", "MORE"]
    assert write.split() == ["write", "900", "instructions", "-10.0%", "fewer"]
