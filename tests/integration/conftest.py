"""A classifier on a database of its own."""

from __future__ import annotations

import pytest
from lanes import World

from datashunt.bootstrap import Runtime


@pytest.fixture
def world(runtime: Runtime) -> World:
    """The classifier `sentiment`, applied, with no bundle yet."""
    made = World(runtime)
    made.apply()
    return made
