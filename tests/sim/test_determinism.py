"""The same run in another process gives the same bytes, whatever the hash seed."""

from __future__ import annotations

import pytest
from fresh_process import bytes_of_runs


@pytest.mark.parametrize(
    ("arm", "lag"),
    [
        ("chunked-swap", 0),
        ("fcfs-background", 1),
        ("priority", 1),
        ("rotating", 1),
        ("sglang-hicache", 0),
        ("rotating-slo-aware", 0),
    ],
)
def test_same_bytes_in_another_process(arm: str, lag: int) -> None:
    one, other = (bytes_of_runs([arm], lag, hash_seed) for hash_seed in ("1", "4242"))
    assert len(one) > 10_000 and b"'evict'" in one
    assert one == other
