"""Settings of one process, from the environment (DATASHUNT_*). Imports errors only.

Nothing else in datashunt reads the environment.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from datashunt.errors import SettingsError
from datashunt.signing import split

PREFIX = "DATASHUNT_"
Seconds = Annotated[float, Field(gt=0, le=31_536_000, allow_inf_nan=False)]
"""At most a year: PostgreSQL's intervals end somewhere."""

Days = Annotated[int, Field(ge=0, le=36_500)]


class Settings(BaseSettings):
    """Everything a process needs to know about its surroundings.

    Durations are seconds, sizes are bytes. URLs may carry passwords and are never printed whole.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    database_url: SecretStr | None = Field(None, description="postgresql://user:password@host:port/database")
    broker_url: SecretStr | None = Field(None, description="redis://host:port/0 or amqp://host:port//")
    quorum_queues: bool = Field(
        False, description="RabbitMQ: declare quorum queues, which outlive a node; the same in every process"
    )
    quota_url: SecretStr | None = Field(
        None, description="Redis or Valkey for the shared LLM quota; default: the broker, if it is one"
    )
    message_key: SecretStr | None = Field(
        None, description="signs messages; workers that have it take no others. Commas between a new and an old one"
    )
    models_url: str = Field("", description="fsspec URL of the bundles; default: DATA_DIR/models")
    data_dir: Path = Field(Path(".datashunt"), description="folder of the embedded servers and local caches")

    llm_base_url: str = Field("https://api.openai.com/v1", description="any OpenAI-compatible endpoint")
    llm_api_key: SecretStr | None = Field(None, description="key for that endpoint")
    llm_deadline_s: Seconds = Field(60.0, description="wall-clock limit of one LLM call")
    llm_max_attempts: Annotated[int, Field(ge=1)] = Field(6, description="failed calls before an ask is dead")

    batch_gather_s: Seconds = Field(60.0, description="how long asks wait for others to share their batch")
    batch_poll_s: Seconds = Field(60.0, description="how often the endpoint is asked how far a batch is")

    max_text_bytes: Annotated[int, Field(ge=1)] = Field(1_000_000, description="largest text accepted, UTF-8")
    max_queued: Annotated[int, Field(ge=0)] = Field(
        0, description="items of one classifier that may be queued before `submit` takes no more; 0: no bound"
    )
    at_bound: str = Field("refuse", description="what `submit` does then: refuse or wait")
    score_lease_s: Seconds = Field(60.0, description="how long a score worker may hold a batch")
    score_batch_tokens: Annotated[int, Field(ge=1)] = Field(8_192, description="padded tokens of one forward pass")
    score_max_attempts: Annotated[int, Field(ge=1)] = Field(5, description="claims before an item is dead")
    distil_lease_s: Seconds = Field(120.0, description="how long a distillation may go without a heartbeat")
    certify_every_s: Seconds = Field(10.0, description="how often judge answers are looked at, to prove a target")
    audit_deadline_s: Seconds = Field(
        172_800.0, description="an audit without an answer after so long counts as a disagreement"
    )
    stand_still_s: Seconds = Field(15.0, description="a row that nobody takes for so long is published again")
    tick_every_s: Seconds = Field(5.0, description="how often each worker looks for due work")
    reload_every_s: Seconds = Field(2.0, description="how old a worker's idea of a classifier may be")

    retention_days: Days = Field(
        0, description="what was said of items goes after so many days, unless policy.retention_days says; 0: never"
    )
    idempotency_days: Days = Field(
        0, description="ids of items go after so many days, unless policy.idempotency_days says; 0: never"
    )

    threads: Annotated[int, Field(ge=0)] = Field(
        0, description="torch threads; 0: torch's own choice, the machine's cores"
    )
    models_memory_mb: Annotated[int, Field(ge=1)] = Field(
        2_048, description="MiB of weights that a worker keeps loaded; the least recently used go first"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N")
    precision: str = Field("auto", description="auto, fp32, bf16, fp16")
    log_level: str = "INFO"

    @field_validator("message_key")
    @classmethod
    def _long_keys(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and any(len(key) < 32 for key in split(value)):
            raise ValueError("expected at least 32 characters, such as `openssl rand -hex 32` prints")
        return value

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", value):
            raise ValueError("expected auto, cpu, cuda or cuda:N")
        return value

    @field_validator("at_bound")
    @classmethod
    def _known_at_bound(cls, value: str) -> str:
        if value not in {"refuse", "wait"}:
            raise ValueError("expected refuse or wait")
        return value

    @field_validator("precision")
    @classmethod
    def _known_precision(cls, value: str) -> str:
        if value not in {"auto", "fp32", "bf16", "fp16"}:
            raise ValueError("expected auto, fp32, bf16 or fp16")
        return value

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ValueError("expected DEBUG, INFO, WARNING or ERROR")
        return value.upper()

    @property
    def ask_lease_s(self) -> float:
        """Lease of one ask: the call's deadline and 30 s to store what it brought."""
        return self.llm_deadline_s + 30.0


def load(**overrides: object) -> Settings:
    """Read the environment; keyword arguments win over it.

    Raises:
        SettingsError: naming each setting that is wrong, and what was expected. Values are not repeated.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # pydantic validates what mypy cannot
    except ValidationError as error:
        wrong = "; ".join(
            f"{PREFIX}{'.'.join(str(part) for part in item['loc']).upper()}: {item['msg']}"
            for item in error.errors(include_input=False, include_url=False)
        )
        raise SettingsError(f"wrong setting: {wrong}") from None
