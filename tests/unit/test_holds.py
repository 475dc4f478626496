"""Holds: what annotations ask of people, and how several policies' asks are merged."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sluicegate.processors.approval.holds import (
    DEFAULT_WHY,
    MAX_HOLD_US,
    MAX_QUORUM,
    Hold,
    hold_of,
    parse_hold,
)
from sluicegate.processors.policy.cedar import Policy
from sluicegate.processors.policy.files import parse_policies
from sluicegate.schemas.errors import Terminal

HOUR_US = 3_600_000_000


def policy(policy_id: str, **annotations: str) -> Policy:
    return Policy(policy_id, "permit", "", {}, {"id": policy_id, **annotations})


def test_without_a_hold_nothing_is_asked() -> None:
    assert hold_of([]) is None
    assert hold_of([policy("a"), policy("b", mode="observe")]) is None


def test_one_policy_with_defaults() -> None:
    assert hold_of([policy("a", hold="large"), policy("b")]) == Hold("large", ("a",), 1, (), MAX_HOLD_US)
    found = hold_of([policy("a", hold="")])
    assert found is not None and found.why == DEFAULT_WHY


def test_several_policies_merge_to_the_strictest() -> None:
    one = policy("a", hold="large", quorum="2", reviewers="desk treasury audit", expires="4h")
    two = policy("b", hold="abroad", quorum="3", reviewers="treasury audit")
    three = policy("c", hold="large", expires="90m")
    merged = Hold("large; abroad", ("a", "b", "c"), 3, ("audit", "treasury"), 90 * 60_000_000)
    for order in itertools.permutations((one, two, three)):
        assert hold_of(order) == merged


def test_reviewers_without_a_common_role_can_never_agree() -> None:
    found = hold_of([policy("a", hold="x", reviewers="desk"), policy("b", hold="y", reviewers="audit")])
    assert found is not None and found.impossible and found.reviewers == ()


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("1s", 1_000_000),
        ("30m", HOUR_US // 2),
        ("4h", 4 * HOUR_US),
        ("24h", MAX_HOLD_US),
        ("1d", MAX_HOLD_US),
    ],
)
def test_expiry_is_read(text: str, us: int) -> None:
    found = parse_hold("a", {"hold": "x", "expires": text})
    assert found is not None and found.expires_us == us


@pytest.mark.parametrize(
    "annotations",
    [{"quorum": "0"}, {"quorum": "11"}, {"quorum": "two"}, {"quorum": ""}, {"quorum": "-1"}, {"quorum": "٢"},
     {"expires": "0s"}, {"expires": "25h"}, {"expires": "soon"}, {"expires": "4"}, {"expires": "4 h"},
     {"expires": "1.5h"}, {"reviewers": ""}, {"reviewers": "  "}, {"reviewers": "\x00"},
     {"reviewers": " ".join(f"r{n}" for n in range(21))}],
)  # fmt: skip
def test_an_annotation_that_says_nothing_usable_names_the_policy(annotations: dict[str, str]) -> None:
    with pytest.raises(Terminal, match="`pay-large`"):
        parse_hold("pay-large", {"hold": "x", **annotations})


@pytest.mark.parametrize("name", ["quorum", "reviewers", "expires"])
def test_an_annotation_that_needs_a_hold_says_so(name: str) -> None:
    with pytest.raises(Terminal, match="without @hold"):
        parse_hold("pay-large", {name: "2"})


def test_a_release_with_such_a_policy_is_refused() -> None:
    text = '@id("a") @hold("x") @quorum("many") permit (principal, action, resource);'
    with pytest.raises(Terminal, match=r"p\.cedar.*quorum"):
        parse_policies({"p.cedar": text})


roles = st.lists(st.sampled_from(("a", "b", "c", "d")), min_size=1, max_size=4, unique=True)
holds = st.fixed_dictionaries(
    {"hold": st.sampled_from(("", "why", "other"))},
    optional={
        "quorum": st.integers(1, MAX_QUORUM).map(str),
        "reviewers": roles.map(" ".join),
        "expires": st.integers(1, 24).map(lambda n: f"{n}h"),
    },
)


@given(st.lists(holds, min_size=1, max_size=5))
def test_a_merged_hold_asks_at_least_what_each_policy_asks(rows: list[dict[str, str]]) -> None:
    policies = [policy(f"p{n}", **row) for n, row in enumerate(rows)]
    merged = hold_of(policies)
    assert merged is not None
    for one in policies:
        alone = parse_hold(one.policy_id, one.annotations)
        assert alone is not None
        assert merged.quorum >= alone.quorum and merged.expires_us <= alone.expires_us
        assert alone.why in merged.why and one.policy_id in merged.policies
        assert not alone.reviewers or merged.impossible or set(merged.reviewers) <= set(alone.reviewers)
    assert hold_of(policies[::-1]) == merged
