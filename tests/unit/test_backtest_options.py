"""What a run may be told, and the order and draws that its seed gives."""

from __future__ import annotations

from typing import Any

import pytest

from datashunt.backtest.options import Options, draw_key, ordered
from datashunt.backtest.recording import Recorded
from datashunt.errors import UsageError

ITEMS = [Recorded(n, f"i{n}", f"text {n}", "x", None) for n in range(50)]


@pytest.mark.parametrize(
    ("given", "option", "found", "expected"),
    [
        ({"batch": 0}, "batch", "0", "1 to 256"),
        ({"batch": 257}, "batch", "257", "1 to 256"),
        ({"order": "backwards"}, "order", "backwards", "file or random"),
        ({"gates": 3}, "gates", "3", "1 or 2"),
        ({"asking": "nicely"}, "asking", "nicely", "one of confidence, margin"),
        ({"max_calls": 0}, "max-calls", "0", "1 or more"),
        ({"learning": -1}, "learning", "-1", "0 or more"),
        ({"alpha": 0.0}, "alpha", "0.0", "inside (0, 1)"),
        ({"alpha": float("nan")}, "alpha", "nan", "inside (0, 1)"),
        ({"alpha": 0.1, "delta": 1.0}, "delta", "1.0", "inside (0, 1)"),
        ({"alpha": 0.1, "max_calls": 5}, "alpha", "0.1", "without max-calls"),
        ({"alpha": 0.1, "gates": 2}, "gates", "2", "1 with a target"),
    ],
)
def test_what_cannot_be_names_the_option_what_was_found_and_what_was_expected(
    given: dict[str, Any], option: str, found: str, expected: str
) -> None:
    with pytest.raises(UsageError) as refused:
        Options(**given)
    said = str(refused.value)
    assert said.startswith(f"--{option}: found {found}, expected ")
    assert expected in said


def test_bounds_are_allowed() -> None:
    Options(batch=1, max_calls=1, gates=2)
    Options(batch=256, alpha=0.999, delta=0.001)


class TestOrder:
    def test_of_the_file_stays(self) -> None:
        assert ordered(ITEMS, Options(order="file", seed=3)) == ITEMS

    def test_at_random_is_every_item_once_by_the_seed(self) -> None:
        shuffled = ordered(ITEMS, Options(seed=3))
        assert shuffled == ordered(ITEMS, Options(seed=3))
        assert sorted(item.line for item in shuffled) == list(range(50))
        assert shuffled != ITEMS
        assert shuffled != ordered(ITEMS, Options(seed=4))


def test_each_seed_draws_by_a_key_of_its_own() -> None:
    assert draw_key(1) == draw_key(1)
    assert len({draw_key(seed) for seed in range(100)}) == 100
    assert len(draw_key(0)) == 32
