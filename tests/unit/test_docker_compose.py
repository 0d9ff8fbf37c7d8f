"""docker/compose.yaml and docker/.env.example, held against the code that they start."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

import datashunt
from datashunt.cli import app
from datashunt.embedded import worker_commands
from datashunt.embedded.server import STOP_S
from datashunt.embedded.service import AFTER_CALL_S
from datashunt.errors import UsageError
from datashunt.pipeline import liveness
from datashunt.settings import PREFIX, Settings

DOCKER = Path(__file__).parents[2] / "docker"
OPERATIONS = (DOCKER.parent / "docs" / "operations.md").read_text(encoding="utf-8")
TEXT = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("datashunt:")}
PROFILES = {"cpu", "gpu", "sim"}
LANES = {"score", "llm", "distil"}
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(?:(:?[-?])([^}]*))?\}")
SETTINGS = {PREFIX + name.upper() for name in Settings.model_fields}


def in_profile(profile: str) -> dict[str, dict[str, Any]]:
    return {name: one for name, one in SERVICES.items() if profile in one.get("profiles", PROFILES)}


def lane(service: dict[str, Any]) -> str | None:
    command = service.get("command", [])
    return command[command.index("-Q") + 1] if "-Q" in command else None


def supervised(tmp_path: Path) -> dict[str, list[str]]:
    """What `datashunt up --workers` runs, with this folder's names taken out."""
    found = {}
    for command in worker_commands(tmp_path):
        words = list(command.argv[command.argv.index("celery") :])
        if "-n" in words:
            words[words.index("-n") + 1] = f"{command.name}@%h"
        found[command.name] = words
    return found


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_a_profile_runs_each_lane_once_and_beat_and_its_servers(profile: str) -> None:
    services = in_profile(profile)
    assert sorted(filter(None, map(lane, services.values()))) == sorted(LANES)
    assert {"postgres", "valkey", "migrate", "beat", "flower"} <= services.keys()


def test_every_worker_command_is_the_one_that_up_supervises(tmp_path: Path) -> None:
    commands = supervised(tmp_path)
    for service in SERVICES.values():
        if (found := lane(service)) is not None:
            assert service["command"] == commands[found]
    assert SERVICES["beat"]["command"] == commands["beat"]


def test_the_table_of_the_operations_page_has_the_commands_that_up_supervises(tmp_path: Path) -> None:
    shown = re.findall(r"^\| `(celery [^`]+)` \|", OPERATIONS, re.M)
    assert [words.split() for words in shown] == list(supervised(tmp_path).values())


def units() -> dict[str, dict[str, str]]:
    """Options of the systemd units that the operations page shows, by the unit's name."""
    blocks = re.findall(r"```ini\n# /etc/systemd/system/(\S+)\n(.*?)```", OPERATIONS, re.S)
    return {
        name: dict(line.split("=", 1) for line in text.replace("\\\n", "").splitlines() if re.match(r"\w+=", line))
        for name, text in blocks
    }


def test_the_unit_of_one_machine_runs_up_in_the_foreground_and_gives_it_time_to_end() -> None:
    unit = units()["datashunt.service"]
    program, name, *words = unit["ExecStart"].split()
    assert program.endswith("/bin/datashunt")
    command: Any = typer.main.get_command(app)
    options = {option for parameter in command.commands[name].params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options
    assert "--workers" in words
    assert "--detach" not in words
    assert Path(words[words.index("--data-dir") + 1]).is_absolute()
    longest = Settings().llm_deadline_s + AFTER_CALL_S + 2 * STOP_S
    assert float(unit["TimeoutStopSec"]) > longest
    assert unit["RestartPreventExitStatus"] == str(UsageError.exit_code)


def test_the_unit_of_a_lane_runs_the_command_that_up_supervises(tmp_path: Path) -> None:
    unit = units()["datashunt-llm@.service"]
    words = unit["ExecStart"].replace("%i", "").replace("%%", "%").split()
    assert ["celery", *words[1:]] == supervised(tmp_path)["llm"]


def test_each_lane_gets_the_time_to_end_that_its_container_gets(tmp_path: Path) -> None:
    rows = re.findall(r"^\| (score|llm|distil) \| `([^`]+)` \| (\w+) \|", OPERATIONS, re.M)
    assert {name for name, _, _ in rows} == LANES
    graces = {lane(one): one["stop_grace_period"] for one in OURS.values() if lane(one)}
    for name, words, seconds in rows:
        assert words.replace("%i", "").replace("%%", "%") in " ".join(supervised(tmp_path)[name])
        assert seconds in {graces[name].replace("m", "min"), graces[name].removesuffix("s")}
    assert units()["datashunt-llm@.service"]["TimeoutStopSec"] == graces["llm"].replace("m", "min")


def test_every_datashunt_command_and_option_exists() -> None:
    known = typer.main.get_command(app)
    programs = [service["command"][1:] for service in OURS.values() if service["command"][0] == "datashunt"]
    assert len(programs) == 2
    for words in programs:
        command: Any = known
        while hasattr(command, "commands") and words:
            command = command.commands[words.pop(0)]
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options


def test_images_carry_the_version_of_this_release_and_the_target_that_is_built() -> None:
    for service in OURS.values():
        assert service["image"] == f"datashunt:{datashunt.__version__}-{service['build']['target']}"
        assert service["build"]["dockerfile"] == "docker/Dockerfile"


def test_foreign_images_are_pinned_to_an_exact_version() -> None:
    for name in SERVICES.keys() - OURS.keys():
        assert re.fullmatch(r"[a-z/]+:\d+(\.\d+)+(-[a-z0-9.]+)?(@sha256:[0-9a-f]{64})?", SERVICES[name]["image"])


def test_only_torch_lanes_of_the_profile_gpu_reserve_a_gpu() -> None:
    reserving = {name for name, service in SERVICES.items() if "deploy" in service}
    assert {lane(SERVICES[name]) for name in reserving} == {"score", "distil"}
    for name in reserving:
        assert SERVICES[name]["profiles"] == ["gpu"]
        assert SERVICES[name]["build"]["target"] == "cuda"
        (device,) = SERVICES[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]


def test_no_password_has_a_default() -> None:
    secrets = {"POSTGRES_PASSWORD", "VALKEY_PASSWORD", "FLOWER_BASIC_AUTH"}
    found = [(name, how, message) for name, how, message in VARIABLE.findall(TEXT) if name in secrets]
    assert {name for name, _, _ in found} == secrets
    assert {how for _, how, _ in found} == {":?"}
    assert all("docker/.env" in message for _, _, message in found)


def test_nothing_is_published_beyond_this_host() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_only_the_llm_lane_gets_the_key_and_the_simulation_gets_no_real_one() -> None:
    with_key = {name for name, one in SERVICES.items() if "DATASHUNT_LLM_API_KEY" in one.get("environment", {})}
    assert {lane(SERVICES[name]) for name in with_key} == {"llm"}
    simulated = SERVICES["llm-sim"]["environment"]
    command = SERVICES["sim"]["command"]
    assert simulated["DATASHUNT_LLM_API_KEY"] == "simulation"
    assert simulated["DATASHUNT_LLM_BASE_URL"] == f"http://sim:{command[command.index('--port') + 1]}/v1"
    assert "llm" not in in_profile("sim")


def test_every_setting_reaches_the_workers() -> None:
    by_image = {"DATASHUNT_DEVICE"}  # each target of the Dockerfile sets its own
    assert set(SERVICES["llm"]["environment"]) == SETTINGS - by_image
    of_llm = {"DATASHUNT_LLM_BASE_URL", "DATASHUNT_LLM_API_KEY"}
    for service in (one for one in SERVICES.values() if lane(one) in {"score", "distil"}):
        assert set(service["environment"]) == SETTINGS - by_image - of_llm


def test_a_worker_is_asked_whether_it_still_takes_messages_of_its_queue() -> None:
    for service in (one for one in SERVICES.values() if lane(one)):
        assert service["healthcheck"]["test"] == ["CMD", "datashunt", "healthy", "--queue", lane(service)]
        assert lane(service) in liveness.QUEUES
        # it may look twice
        seconds = float(service["healthcheck"]["timeout"].removesuffix("s"))
        assert seconds > 2 * liveness.every_s(Settings()) + 20


def test_workers_wait_for_the_migration_and_the_broker() -> None:
    for service in (one for one in SERVICES.values() if lane(one)):
        assert service["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
        assert service["depends_on"]["valkey"]["condition"] == "service_healthy"
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}


def test_what_is_waited_for_is_in_the_same_profile() -> None:
    for name, service in SERVICES.items():
        for other in service.get("depends_on", {}):
            wanted = set(service.get("profiles", PROFILES))
            assert wanted <= set(SERVICES[other].get("profiles", PROFILES)), (name, other)


def test_every_service_restarts_and_has_time_to_end() -> None:
    for name, service in SERVICES.items():
        assert service["restart"] == ("on-failure:5" if name == "migrate" else "unless-stopped")
    for service in (one for one in SERVICES.values() if lane(one) or "server" in str(one.get("command"))):
        assert "stop_grace_period" in service


def test_our_containers_can_gain_no_rights() -> None:
    for service in OURS.values():
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert service["init"] is True


def test_flower_shows_no_arguments_of_tasks_and_changes_nothing() -> None:
    assert {"--enable_events=False", "--read_only=True"} <= set(SERVICES["flower"]["command"])


def example() -> dict[str, str]:
    """Variables of .env.example, those in comments included."""
    text = (DOCKER / ".env.example").read_text(encoding="utf-8")
    return dict(re.findall(r"^#?([A-Z_]+)=(.*)$", text, re.M))


def test_the_example_names_only_settings_and_variables_of_compose_and_all_of_the_latter() -> None:
    variables = {name for name, _, _ in VARIABLE.findall(TEXT)} | {"COMPOSE_PROFILES"}
    assert variables <= example().keys() <= variables | SETTINGS


def test_the_example_holds_no_secret_and_a_known_profile() -> None:
    values = example()
    assert values["COMPOSE_PROFILES"] in PROFILES
    for name, value in values.items():
        if re.search(r"PASSWORD|_AUTH|_KEY", name):
            assert value == ""


def test_the_filled_in_file_is_ignored_by_git() -> None:
    assert ".env" in (DOCKER / ".gitignore").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_compose_itself_accepts_the_file(profile: str) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("the docker client with its compose plugin is not installed")
    required = {name: "x" for name, how, _ in VARIABLE.findall(TEXT) if how == ":?"}
    command = [docker, "compose", "-f", str(DOCKER / "compose.yaml"), "--profile", profile, "config", "--quiet"]
    env = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **required}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert (done.returncode, done.stderr) == (0, "")
