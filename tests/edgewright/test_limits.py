"""Limits and clusters that a command gives in the place of the profile's."""

from __future__ import annotations

import pytest

from compiler.device import BenchmarkProtocol, Cluster, DeviceProfile
from compiler.errors import UsageError
from edgewright.cli.options import read_percent
from edgewright.limits import Limits, limited, on_cluster

CLUSTERS = (Cluster("prime", (7,)), Cluster("little", (0, 1, 2, 3)))
PROFILE = DeviceProfile("p", "", "local", ("t",), 1, protocol=BenchmarkProtocol(), clusters=CLUSTERS)


def test_no_limits_leave_the_profile_as_it_is() -> None:
    assert limited(PROFILE, Limits()) == PROFILE
    assert on_cluster(PROFILE, None) is PROFILE


def test_limits_take_the_place_of_the_profiles() -> None:
    found = limited(PROFILE, Limits(0.005, 5, 90.0)).protocol
    assert (found.target_width, found.unstable_width) == (0.005, 0.005)
    assert (found.min_rounds, found.max_rounds, found.max_seconds) == (5, 5, 90.0)
    more = limited(PROFILE, Limits(max_rounds=500)).protocol
    assert (more.min_rounds, more.max_rounds) == (8, 500)


def test_a_cluster_is_taken_by_name() -> None:
    found = on_cluster(PROFILE, "prime")
    assert (found.affinity, found.cluster) == ((7,), "prime")
    with pytest.raises(UsageError, match="'p' has no cluster 'big'; it has prime, little"):
        on_cluster(PROFILE, "big")
    with pytest.raises(UsageError, match=r"none: it states no \[\[cluster\]\]"):
        on_cluster(DeviceProfile("h", "", "local", ("t",), 1), "big")


@pytest.mark.parametrize(("text", "share"), [("2%", 0.02), (" 0.5 % ", 0.005), (None, None)])
def test_a_share_is_written_in_percent(text, share) -> None:
    assert read_percent(text) == share


@pytest.mark.parametrize("text", ["2", "0.02", "0%", "100%", "-1%", "narrow"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"write 2% or 0\.5%"):
        read_percent(text)
