"""The pages against the code: settings, commands, options, exit codes; and their links."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from datashunt import classifier, errors, streams
from datashunt.cli import app, items
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


PAGES = sorted([*DOCS.glob("*.md"), *DOCS.parent.glob("*.md")])


def commands() -> list[str]:
    """Every datashunt command of the pages, in code blocks and in running text."""
    text = "\n".join(page.read_text("utf-8") for page in PAGES if page.name not in {"cli.md", "CHANGELOG.md"})
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.S))
    running = re.findall(r"`(datashunt [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    # a program's name: not the role and the database that have the same
    found = re.findall(r"(?:^|exec llm )(datashunt [a-z].*?)(?=\s+#|$)", blocks, re.M)
    return sorted({*running, *found})


def test_the_pages_are_found_to_name_commands() -> None:
    assert {"datashunt up --detach --workers", "datashunt db upgrade"} <= set(commands())


@pytest.mark.parametrize("line", commands())
def test_every_command_of_the_pages_exists_with_its_options(line: str) -> None:
    words = shlex.split(line)[1:]
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    options = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options


def walk(command: Any, *path: str) -> Iterator[tuple[str, set[str]]]:
    """Every command with its long options."""
    options = {name for parameter in command.params for name in parameter.opts if name.startswith("--")}
    if not hasattr(command, "commands"):
        yield " ".join(path), options
        return
    if not path:
        yield "", options
    for name, below in command.commands.items():
        yield from walk(below, *path, name)


CLI = (DOCS / "cli.md").read_text("utf-8")
COMMANDS = dict(walk(typer.main.get_command(app)))


def rows_of(name: str) -> list[str]:
    """The page's row of a command; of the program itself, all that is no row."""
    if not name:
        return [line for line in CLI.splitlines() if not line.startswith("|")]
    return [line for line in CLI.splitlines() if re.match(rf"\| `{name}[` ]", line)]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_on_the_page_of_commands(name: str) -> None:
    rows = rows_of(name)
    assert len(rows) == 1 or not name
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", " ".join(rows))) - {"--help"} == COMMANDS[name]


def test_the_page_of_commands_names_no_other() -> None:
    assert len(re.findall(r"^\| `\w", CLI.partition("## Exit codes")[0], re.M)) == len(COMMANDS) - 1


def test_every_extra_is_on_the_page_of_installation() -> None:
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text("utf-8"))["project"]
    shown = re.findall(r"^\| `(\w+)` \|", (DOCS / "install.md").read_text("utf-8"), re.M)
    assert set(shown) == project["optional-dependencies"].keys()


def test_the_classifier_file_and_the_items_of_the_readme_are_ones(tmp_path: Path) -> None:
    text = (DOCS.parent / "README.md").read_text("utf-8")
    blocks = dict(re.findall(r"```(yaml|json|csv)\n(.*?)```", text, re.S))
    spec = classifier.parse(yaml.safe_load(blocks["yaml"]), where="README.md")
    (tmp_path / "tickets.jsonl").write_text(blocks["json"], encoding="utf-8")
    rows = list(streams.read(tmp_path / "tickets.jsonl"))
    assert [row for row in rows if isinstance(row, streams.BadRow)] == []
    (tmp_path / "answers.csv").write_text(blocks["csv"], encoding="utf-8")
    answers = list(streams.read(tmp_path / "answers.csv", columns=("label",)))
    assert {row.fields["label"] for row in answers if isinstance(row, streams.Row)} <= set(spec.labels)


def test_every_page_is_listed_in_the_readme() -> None:
    text = (DOCS.parent / "README.md").read_text("utf-8")
    assert [page.name for page in DOCS.glob("*.md") if f"| [docs/{page.name}](docs/{page.name}) |" not in text] == []


def test_every_exit_code_is_on_the_page_of_commands() -> None:
    found = {int(code) for code in re.findall(r"^\| (\d+) \|", CLI, re.M)}
    of_errors = {one.exit_code for one in vars(errors).values() if isinstance(one, type) and hasattr(one, "exit_code")}
    assert found == {0, 130, items.TIMED_OUT, *of_errors}


LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in LINK.findall(re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.is_file() or file.is_dir(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.M)
            assert anchor in {slug(head) for head in heads}, target


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
