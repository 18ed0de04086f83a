"""However much keys want and however long they hold it, the next one finds a place."""

import pytest

from jobs.fair_shares import Shares, room


def take_all(shares: Shares, key: str) -> int:
    taken = 0
    while shares.take(key):
        taken += 1
    return taken


@pytest.mark.parametrize(("places", "alone"), [(1, 1), (2, 1), (4, 3), (10, 8), (64, 48), (200, 150), (10_000, 7500)])
def test_one_key_alone_has_three_quarters_and_the_next_still_finds_a_place(places: int, alone: int) -> None:
    shares = Shares(places)
    assert take_all(shares, "greedy") == alone
    assert shares.take("next") == (places > 1)


def test_keys_that_want_all_come_to_shares_alike_and_leave_as_much_as_a_third_of_one() -> None:
    """Each place that comes free goes to who may have it, as it does where places are held for a while."""
    shares = Shares(200)
    held = {key: take_all(shares, key) for key in "abcd"}
    assert held == {"a": 150, "b": 38, "c": 9, "d": 2}
    for _ in range(400):
        longest = max(held, key=lambda key: held[key])
        shares.give_back(longest)
        held[longest] -= 1
        for key in held:
            held[key] += take_all(shares, key)
    assert max(held.values()) - min(held.values()) <= 4, held
    assert 200 - shares.taken >= max(held.values()) // 3 - 1


def test_what_is_given_back_can_be_taken_again() -> None:
    shares = Shares(4)
    assert [shares.take("a") for _ in range(4)] == [True, True, True, False]
    assert shares.is_half_used("a")
    for _ in range(3):
        shares.give_back("a")
    assert (shares.taken, shares.is_half_used("a"), take_all(shares, "b")) == (0, False, 3)


@pytest.mark.parametrize("free", range(-3, 20))
def test_nobody_is_promised_more_than_is_free(free: int) -> None:
    for held in range(20):
        assert 0 <= room(held, free) <= max(0, free)
    assert room(0, free) >= (free > 0)
