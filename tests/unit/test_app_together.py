"""Replicas of several workloads in shared servers."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.app.together import servers_for


@given(st.lists(st.sampled_from([0.5, 1.0, 2.0, 4.0, 8.0]), max_size=40))
def test_sizes_that_divide_one_another_fill_servers(sizes: list[float]) -> None:
    assert servers_for(sizes, 8) == math.ceil(sum(sizes) / 8)


@given(st.lists(st.sampled_from([2.0, 3.0, 6.0]), max_size=6))
def test_odd_servers_are_as_many_as_the_best_packing_needs(sizes: list[float]) -> None:
    def fits(order: tuple[float, ...]) -> int:
        servers, room = 0, 0.0
        for size in order:
            if room < size:
                servers, room = servers + 1, 6.0
            room -= size
        return servers

    best = min((fits(order) for order in itertools.permutations(sizes)), default=0)
    assert best <= servers_for(sizes, 6) <= best + 1


@pytest.mark.parametrize(("size", "servers"), [(16.0, 2), (12.0, 2), (8.0, 1), (32.0, 4)])
def test_replicas_over_several_servers_take_whole_ones(size: float, servers: int) -> None:
    assert servers_for([size, size], 8) == 2 * servers
