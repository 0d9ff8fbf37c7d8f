"""docs/settings.md says what Settings holds; docs/operations.md names commands that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from datashunt.cli import app
from datashunt.settings import PREFIX, Settings

DOCS = Path(__file__).parents[2] / "docs"
ROW = re.compile(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", re.M)


def documented() -> dict[str, str]:
    """Settings of the page and their defaults."""
    return {name: default for name, default, _ in ROW.findall((DOCS / "settings.md").read_text("utf-8"))}


def default_of(field: str) -> str:
    value = Settings.model_fields[field].default
    if value is None:
        return "unset"
    if value == "":
        return "empty"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def test_every_setting_is_documented_and_nothing_else_is() -> None:
    assert documented().keys() == {PREFIX + name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("field", sorted(Settings.model_fields))
def test_the_documented_default_is_the_real_one(field: str) -> None:
    assert documented()[PREFIX + field.upper()] == default_of(field)


def commands() -> list[str]:
    """Every datashunt command of the operations page, in code blocks and in running text."""
    text = (DOCS / "operations.md").read_text("utf-8")
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.S))
    running = re.findall(r"`(datashunt [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    # a program's name: not the role and the database that have the same
    found = re.findall(r"(?:^|exec llm )(datashunt [a-z].*?)(?=\s+#|$)", blocks, re.M)
    return sorted({*running, *found})


def test_the_operations_page_is_found_to_name_commands() -> None:
    assert {"datashunt up --detach --workers", "datashunt db upgrade"} <= set(commands())


@pytest.mark.parametrize("line", commands())
def test_every_command_of_the_operations_page_exists_with_its_options(line: str) -> None:
    words = shlex.split(line)[1:]
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    options = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options
