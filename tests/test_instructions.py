# SPDX-License-Identifier: Apache-2.0
"""The hot path's instruction counts, compared with the stored figures."""

import pytest

from clients.bench import instructions


@pytest.mark.slow
def test_hot_path_takes_no_more_instructions() -> None:
    """No operation of the hot path takes over 5 % more instructions than its stored figure."""
    if lack := instructions.missing():
        pytest.skip(lack)
    kept = instructions.kept()
    if not kept:
        pytest.skip(f"no figures are stored for {instructions.compiler()}")
    now = instructions.count()
    assert set(kept) == set(now)
    assert {} == instructions.risen(now, kept)


@pytest.mark.slow
@pytest.mark.parametrize(
    "size",
    [(4000, 1, 4096), (0, 1000, 4096), (0, 1, 1 << 18)],
    ids=["4000 members", "1000 queues", "262144 buffers"],
)
def test_hot_path_is_flat(size: tuple[int, int, int]) -> None:
    """An element costs as many instructions in a large pool as in a small one."""
    if lack := instructions.missing():
        pytest.skip(lack)
    only = ("pool-32", "queue-1", "path-1")
    small, large = instructions.count(only), instructions.count(only, size)
    assert set(only) == set(small)
    assert all(figure > 0 for figure in small.values())
    assert {name: pytest.approx(figure, rel=0.02) for name, figure in small.items()} == large


def test_a_rise_is_found() -> None:
    """A rise of 6 % is found; a rise of 4 % and a fall are not."""
    before = {"a": 100.0, "b": 100.0, "c": 100.0}
    assert {"a": 1.06} == instructions.risen({"a": 106.0, "b": 104.0, "c": 10.0}, before)
