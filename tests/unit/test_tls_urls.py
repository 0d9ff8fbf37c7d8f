"""TLS options travel in the URLs, untouched, to the libraries that open the connections."""

from __future__ import annotations

import ssl

import pytest
from celery import Celery
from pydantic import SecretStr

from datashunt.broker import configure
from datashunt.errors import DatashuntError
from datashunt.quota import Quota
from datashunt.store import Store


def test_options_of_the_database_url_reach_the_driver() -> None:
    store = Store(SecretStr("postgresql://u:p@db.example/d?sslmode=verify-full&sslrootcert=/ca.pem"))
    _, given = store.engine.dialect.create_connect_args(store.engine.url)
    assert (given["sslmode"], given["sslrootcert"]) == ("verify-full", "/ca.pem")


def test_a_root_certificate_that_is_missing_is_no_reason_to_go_on_without(tmp_path: object) -> None:
    store = Store(SecretStr(f"postgresql://u:p@127.0.0.1:9/d?sslmode=verify-full&sslrootcert={tmp_path}/none.pem"))
    with pytest.raises(DatashuntError, match=r"root certificate|cannot be used"), store.begin():
        pass


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
def test_options_of_the_broker_url_reach_its_client(scheme: str) -> None:
    url = f"{scheme}://:p@broker.example:6380/0?ssl_cert_reqs=required&ssl_ca_certs=/ca.pem"
    app = configure(Celery("a", set_as_current=False), SecretStr(url))
    with app.connection_for_write() as connection:
        transport = connection.transport_options
        given = connection.ssl
    assert transport["visibility_timeout"] == 60
    assert given["ssl_cert_reqs"] == ssl.CERT_REQUIRED
    assert given["ssl_ca_certs"] == "/ca.pem"


def test_options_of_the_quota_url_reach_its_client() -> None:
    quota = Quota("rediss://:p@quota.example:6380/0?ssl_cert_reqs=required&ssl_ca_certs=/ca.pem")
    given = quota._redis.connection_pool.connection_kwargs
    assert (given["ssl_cert_reqs"], given["ssl_ca_certs"]) == ("required", "/ca.pem")
    assert quota._redis.connection_pool.connection_class.__name__ == "SSLConnection"
