"""P4, one at a time: how many nodes may carry faults at once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos_core import blast
from chaos_core.envelope import PROFILES
from chaos_core.errors import EnvelopeExceeded

quick = settings(derandomize=True, deadline=None, database=None, max_examples=60)


@pytest.mark.parametrize(
    ("profile", "fleet", "allowed"),
    [
        ("production", 1, 1),
        ("production", 100, 1),
        ("staging", 1, 0),
        ("staging", 2, 0),
        ("staging", 3, 1),
        ("staging", 4, 1),
        ("staging", 5, 2),
        ("lab", 3, 3),
    ],
)
def test_allowed_nodes(profile: str, fleet: int, allowed: int) -> None:
    assert blast.allowed_nodes(PROFILES[profile], fleet) == allowed


@given(
    profiles=st.dictionaries(st.sampled_from("abcdefg"), st.sampled_from(list(PROFILES))),
    wanted=st.sets(st.sampled_from("abcdefg"), min_size=1),
    occupied=st.sets(st.sampled_from("abcdefg")),
)
@quick
def test_the_strictest_node_involved_decides(
    profiles: dict[str, str], wanted: set[str], occupied: set[str]
) -> None:
    envelopes = {name: PROFILES[profile] for name, profile in profiles.items()}
    nodes = wanted | occupied
    # A node whose envelope is not known counts as production.
    limits = {
        {"production": 1, "staging": 3, "lab": 7}[profiles.get(n, "production")] for n in nodes
    }
    if len(nodes) <= min(limits):
        blast.check(wanted, occupied, envelopes, fleet=7)
    else:
        with pytest.raises(EnvelopeExceeded, match="nodes at once"):
            blast.check(wanted, occupied, envelopes, fleet=7)


def test_a_second_production_node_is_refused_and_the_first_is_named() -> None:
    envelopes = {"n1": PROFILES["production"], "n2": PROFILES["production"]}
    with pytest.raises(EnvelopeExceeded, match=r"2 nodes at once \(n1 already\)"):
        blast.check(["n2"], ["n1"], envelopes, fleet=3)


def test_a_node_whose_envelope_is_unknown_counts_as_production() -> None:
    with pytest.raises(EnvelopeExceeded, match="on n9 allows 1"):
        blast.check(["n1"], ["n9"], {"n1": PROFILES["lab"]}, fleet=3)
