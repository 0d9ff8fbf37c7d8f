"""docker/health.py: which process it looks at, and what it makes of it."""

from __future__ import annotations

import importlib.util
import os
import socket
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

CELERY = ["/opt/venv/bin/python", "/opt/venv/bin/celery", "-A", "workers"]
WORKER = [*CELERY, "worker", "-Q", "score", "-P", "solo", "-n", "score@%h"]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("health", Path(__file__).parents[2] / "docker" / "health.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


health = load()


def test_the_worker_is_known_by_its_node_name_with_this_host_filled_in() -> None:
    assert health.node_name(WORKER) == f"score@{socket.gethostname()}"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        [""],
        ["/sbin/docker-init", "--", *WORKER[1:]],
        ["/opt/venv/bin/python", "/opt/datashunt/health.py"],
        [*CELERY, "beat"],
        [*CELERY, "worker", "-n"],
    ],
)
def test_what_is_no_worker_has_no_node_name(argv: list[str]) -> None:
    assert health.node_name(argv) is None


def test_the_worker_is_found_among_other_processes(tmp_path: Path) -> None:
    for pid, argv in {"1": ["/sbin/docker-init", "--", *WORKER], "8": WORKER, "9": ["sh"]}.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cmdline").write_text("\0".join(argv) + "\0")
    (tmp_path / "10").mkdir()  # a process that has ended between listing and reading
    assert health.find_worker(tmp_path) == (tmp_path / "8", f"score@{socket.gethostname()}")


def test_a_container_without_a_worker_is_unhealthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "find_worker", lambda: None)
    assert health.main() == 1


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="containers are Linux")
def test_the_cpu_of_a_process_is_what_the_system_accounts_for_it() -> None:
    before = sum(os.times()[:2])
    found = health.cpu_s(Path("/proc/self"))
    tick = 1 / os.sysconf("SC_CLK_TCK")
    assert before - 2 * tick <= found <= sum(os.times()[:2]) + 2 * tick


@given(cores=st.floats(0, 64))
def test_a_worker_that_answers_is_healthy_however_busy(cores: float) -> None:
    assert health.verdict("score@a", answered=True, cores=cores)[0]


@given(cores=st.floats(0, 64))
def test_a_silent_worker_is_healthy_only_while_it_computes(cores: float) -> None:
    healthy, why = health.verdict("score@a", answered=False, cores=cores)
    assert healthy == (cores >= health.BUSY_CORES)
    assert "score@a" in why
