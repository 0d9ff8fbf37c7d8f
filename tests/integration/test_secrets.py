"""A worker whose every secret is marked: no log, no command line, no `status`, no error shows one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from lanes import World
from psycopg import sql
from sqlalchemy.engine import make_url

from datashunt.settings import Settings

MARK = "s3kr1t"


@pytest.mark.parametrize("wrong", [False, True], ids=["all is well", "no server answers"])
def test_secrets_are_nowhere_to_be_seen(world: World, settings: Settings, tmp_path: Path, wrong: bool) -> None:
    assert settings.database_url is not None
    assert settings.broker_url is not None
    role, password = f"t_{uuid4().hex[:12]}", f"{MARK}-database"
    with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}").format(sql.Identifier(role), password))
    port = {"port": 9} if wrong else {}
    database = make_url(settings.database_url.get_secret_value()).set(username=role, password=password, **port)
    broker = f"redis://:{MARK}-broker@127.0.0.1:9/0" if wrong else settings.broker_url.get_secret_value()
    env = {
        **os.environ,
        "DATASHUNT_DATABASE_URL": database.render_as_string(hide_password=False),
        "DATASHUNT_BROKER_URL": broker,
        "DATASHUNT_QUOTA_URL": f"redis://:{MARK}-quota@127.0.0.1:9/0",
        "DATASHUNT_MESSAGE_KEY": f"{MARK}-message-{'k' * 32}",
        "DATASHUNT_LLM_API_KEY": f"{MARK}-llm",
        "DATASHUNT_LLM_BASE_URL": "http://127.0.0.1:9/v1",
        "DATASHUNT_DATA_DIR": str(tmp_path / "data"),
        "DATASHUNT_LOG_LEVEL": "DEBUG",
        "DATASHUNT_TICK_EVERY_S": "0.2",
    }
    log = tmp_path / "worker.log"
    argv = [sys.executable, "-m", "celery", "-A", "workers", "worker", "-Q", "llm", "-P", "threads", "-c", "2"]
    with log.open("wb") as out:
        worker = subprocess.Popen([*argv, "--without-gossip", "--without-mingle"], env=env, stdout=out, stderr=out)
    try:
        end = time.monotonic() + 60
        while ("tick_failed" if wrong else "ready.") not in log.read_text() and not (
            wrong and "Cannot" in log.read_text()
        ):
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        seen = Path(f"/proc/{worker.pid}/cmdline").read_text() + Path(f"/proc/{worker.pid}/comm").read_text()
        for command in (
            ["status"],
            ["doctor"],
            ["--debug", "status"],
            ["db", "current"],
            ["dead", "list", "sentiment"],
        ):
            ended = subprocess.run(
                [sys.executable, "-m", "datashunt", *command], env=env, capture_output=True, text=True, check=False
            )
            seen += ended.stdout + ended.stderr
    finally:
        worker.terminate()
        try:
            worker.wait(30)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
        with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as admin:
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
    seen += log.read_text()
    assert len(seen) > 500
    assert MARK not in seen


def test_a_secret_that_is_wrong_is_not_repeated(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("DATASHUNT_")}
    for name, value in (("MESSAGE_KEY", MARK), ("DATABASE_URL", f"nonsense:{MARK}"), ("BROKER_URL", f"x://{MARK}")):
        ended = subprocess.run(
            [sys.executable, "-m", "datashunt", "doctor"],
            env={**env, f"DATASHUNT_{name}": value, "DATASHUNT_DATA_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode in {1, 2}
        assert MARK not in ended.stdout + ended.stderr
