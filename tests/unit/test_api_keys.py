"""API keys: what opens, what does not, and that an id never comes to mean another key."""

from __future__ import annotations

import pytest
from sluicegate.processors.control.api_keys import ApiKey, NoKey, digest_of, opened, token_of

from tests.driver import Driver

FOREVER = 2**53 - 1
SECRET = "s3cret_with_underscores"


def made(**more: object) -> dict[str, object]:
    return {
        "key_id": "k1", "sha256": digest_of(SECRET), "agent_id": "a", "scopes": ["agent"], "rate_per_s": 5,
        "not_after": FOREVER, **more,
    }  # fmt: skip


@pytest.fixture
def driver() -> Driver:
    found = Driver()
    found.control_event("api_key.added", **made())
    return found


def test_the_right_token_opens(driver: Driver) -> None:
    key = opened(driver.control, token_of("test", "k1", SECRET), driver.now)
    assert isinstance(key, ApiKey) and (key.agent_id, key.scopes) == ("a", ("agent",))


@pytest.mark.parametrize(
    ("token", "says"),
    [
        ("", "no API key"),
        ("sk-live-123", "no API key"),
        ("sg_test_k1", "no API key"),
        ("x" * 5_000, "no API key"),
        (token_of("prod", "k1", SECRET), "environment `prod`"),
        (token_of("test", "k1", SECRET + "x"), "not known"),
        (token_of("test", "k1", ""), "not known"),
        (token_of("test", "other", SECRET), "not known"),
        (token_of("test", "other", ""), "not known"),
    ],
)
def test_others_do_not(driver: Driver, token: str, says: str) -> None:
    found = opened(driver.control, token, driver.now)
    assert isinstance(found, NoKey) and says in found.detail
    assert SECRET not in found.detail


def test_it_ends(driver: Driver) -> None:
    token = token_of("test", "k1", SECRET)
    driver.control_event("api_key.added", **made(key_id="k2", not_after=driver.now + 10))
    assert isinstance(opened(driver.control, token_of("test", "k2", SECRET), driver.now + 10), NoKey)
    driver.control_event("api_key.revoked", key_id="k1")
    assert isinstance(opened(driver.control, token, driver.now), NoKey)
    driver.control_event("api_key.revoked", key_id="nobody")


def test_an_id_is_never_reused(driver: Driver) -> None:
    driver.control_event("api_key.revoked", key_id="k1")
    driver.control_event("api_key.added", **made(agent_id="b"))
    assert driver.control.api_keys["k1"].agent_id == "a"
    assert isinstance(opened(driver.control, token_of("test", "k1", SECRET), driver.now), NoKey)


def test_scopes_and_rates_are_bounded(driver: Driver) -> None:
    driver.control_event("api_key.added", **made(key_id="k3", scopes=["root", "channel"], rate_per_s=10**9))
    key = driver.control.api_keys["k3"]
    assert key.scopes == ("channel",) and key.rate_per_s == 100_000
