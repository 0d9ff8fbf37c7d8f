"""Settings: read from DATASHUNT_*, refused by name, and never shown with their secrets."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from datashunt.errors import SettingsError
from datashunt.settings import Settings, load


def test_everything_has_a_default_but_the_servers() -> None:
    settings = load()
    assert settings.database_url is settings.broker_url is settings.llm_api_key is None
    assert settings.data_dir == Path(".datashunt")


def test_the_environment_is_read_and_arguments_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASHUNT_THREADS", "3")
    monkeypatch.setenv("DATASHUNT_DATA_DIR", "/somewhere")
    assert (load().threads, load().data_dir) == (3, Path("/somewhere"))
    assert load(threads=1).threads == 1


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("LLM_DEADLINE_S", "soon", "valid number"),
        ("LLM_DEADLINE_S", "0", "greater than 0"),
        ("LLM_DEADLINE_S", "inf", "finite number"),
        ("SCORE_LEASE_S", "1e300", "less than or equal to 31536000"),
        ("SCORE_LEASE_S", "-5", "greater than 0"),
        ("LLM_MAX_ATTEMPTS", "0", "greater than or equal to 1"),
        ("MAX_TEXT_BYTES", "1.5", "valid integer"),
        ("DEVICE", "gpu", "expected auto, cpu, cuda or cuda:N"),
        ("DEVICE", "cuda:", "expected auto, cpu, cuda or cuda:N"),
        ("PRECISION", "int4", "expected auto, fp32, bf16 or fp16"),
        ("LOG_LEVEL", "LOUD", "expected DEBUG, INFO, WARNING or ERROR"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(f"DATASHUNT_{name}", value)
    with pytest.raises(SettingsError, match=f"wrong setting: DATASHUNT_{name}: .*{said}"):
        load()


def test_all_wrong_settings_are_named_and_no_value_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASHUNT_THREADS", "hunter2")
    monkeypatch.setenv("DATASHUNT_TICK_EVERY_S", "hunter2")
    with pytest.raises(SettingsError) as refused:
        load()
    assert "DATASHUNT_THREADS" in str(refused.value)
    assert "DATASHUNT_TICK_EVERY_S" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASHUNT_DATABASE_URL", "postgresql://app:hunter2@host/db")
    monkeypatch.setenv("DATASHUNT_BROKER_URL", "redis://:hunter2@host")
    monkeypatch.setenv("DATASHUNT_LLM_API_KEY", "hunter2")
    assert "hunter2" not in repr(load()) + str(load())


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        load().threads = 2  # type: ignore[misc]


def test_a_level_is_read_in_any_case() -> None:
    assert load(log_level="debug").log_level == "DEBUG"


def test_an_ask_is_leased_for_longer_than_its_call_may_take() -> None:
    assert load(llm_deadline_s=10).ask_lease_s == 40.0


def test_every_setting_is_described_or_explains_itself() -> None:
    bare = {name for name, field in Settings.model_fields.items() if not field.description}
    assert bare == {"log_level"}
