"""Ten years of nights, most of them with a fault: no batch hangs, no result is wrong, and every failure has a name."""

from __future__ import annotations

import pytest
from support.many.nights import Year
from support.many.parties import Parties
from support.processes.runner import free_ports


@pytest.mark.more
def test_three_nights(parties: Parties) -> None:
    with free_ports(3) as ports:
        Year(parties, ports, 0).pass_nights(3)


@pytest.mark.slow
@pytest.mark.parametrize("fifth", range(5))
@pytest.mark.parametrize("year", range(1, 11), ids="year-{:02}".format)
def test_a_fifth_of_a_year(parties: Parties, year: int, fifth: int) -> None:
    with free_ports(3) as ports:
        Year(parties, ports, 5 * year + fifth).pass_nights(73)
