"""Redis URLs: one server, or the master named by Sentinels."""

import pytest
from kombu.transport import TRANSPORT_ALIASES
from redis.connection import SSLConnection

from jobs.celery_app import create_celery
from jobs.errors import SettingsError
from jobs.redis_url import Sentinels, connect, for_kombu, with_master
from jobs.setting_checks import BROKER_LIBRARIES, BROKER_SCHEMES
from jobs.settings import load_settings

SECRET = "hush-hush"
TWO = (("h1", 26379), ("h2", 5000))


@pytest.mark.parametrize(
    "url",
    [
        "sentinel://h1;h2:5000/3?master_name=main",
        "sentinel://h1:26379;sentinel://h2:5000/3?master_name=main",
    ],
)
def test_sentinels_are_read_in_either_way_to_write_them(url: str) -> None:
    found = Sentinels.from_url(url)
    assert (found.hosts, found.master, found.database, found.username, found.password) == (TWO, "main", 3, None, None)
    assert for_kombu(url) == "sentinel://h1:26379/3;sentinel://h2:5000/3"


def test_passwords_of_the_master_and_of_the_sentinels_are_apart() -> None:
    found = Sentinels.from_url("sentinel://me:p%40ss@[::1]:1/?master_name=m&sentinel_password=theirs")
    assert (found.hosts, found.username, found.password) == ((("[::1]", 1),), "me", "p@ss")
    assert found.own == {"password": "theirs"}
    assert found.to_kombu() == "sentinel://me:p%40ss@[::1]:1/0"
    assert found.kombu_options["sentinel_kwargs"]["password"] == "theirs"


def test_the_brokers_options_name_the_master_as_well() -> None:
    options = {"master_name": "main", "sentinel_kwargs": {"password": "theirs"}}
    found = Sentinels.from_url(with_master("sentinel://h1", options))
    assert (found.master, found.own) == ("main", {"password": "theirs"})
    assert Sentinels.from_url(with_master("sentinel://h1?master_name=other", options)).master == "other"
    assert with_master("redis://h1/0", options) == "redis://h1/0"


@pytest.mark.parametrize(
    ("query", "tls"),
    [
        ("", {}),
        ("&ssl=false", {}),
        ("&ssl=true", {"ssl_cert_reqs": "required"}),
        (
            "&ssl_ca_certs=/etc/ca.pem&ssl_check_hostname=false",
            {"ssl_cert_reqs": "required", "ssl_ca_certs": "/etc/ca.pem", "ssl_check_hostname": False},
        ),
    ],
)
def test_tls_is_spoken_to_the_sentinels_and_to_the_master(query: str, tls: dict[str, object]) -> None:
    """Tried with Redis 7 under TLS; the Valkey of these tests has none."""
    url = f"sentinel://h1?master_name=main{query}"
    spoken = {"ssl": True, **tls} if tls else {}
    found = Sentinels.from_url(url)
    assert (found.tls, found.ssl) == (tls, spoken)
    sentinel_kwargs = found.kombu_options["sentinel_kwargs"]
    assert {name: value for name, value in sentinel_kwargs.items() if name.startswith("ssl")} == spoken
    app = create_celery(load_settings(redis_url=url))
    assert app.conf.broker_use_ssl == tls
    with connect(url) as client:
        is_secret = issubclass(client.connection_pool.connection_class, SSLConnection)
    assert is_secret is bool(tls)


def test_what_is_not_known_of_sentinels_is_refused() -> None:
    """It may be meant to keep the line secret."""
    with pytest.raises(ValueError, match="expected a URL"):
        Sentinels.from_url("sentinel://h1?master_name=main&tls=true")


def test_a_socket_has_another_name_at_kombus() -> None:
    assert for_kombu("unix:///run/valkey.sock?db=2") == "redis+socket:///run/valkey.sock?virtual_host=2"
    assert for_kombu("amqp://me@host//") == "amqp://me@host//"


def test_settings_take_sentinels_with_the_password_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKBURNER_REDIS_URL", "sentinel://me@h1:26379;sentinel://h2:5000/3")
    monkeypatch.setenv("BACKBURNER_REDIS_PASSWORD", SECRET)
    monkeypatch.setenv("BACKBURNER_BROKER_OPTIONS", '{"master_name": "main"}')
    settings = load_settings()
    assert settings.broker == settings.redis
    found = Sentinels.from_url(settings.broker)
    assert (found.hosts, found.master, found.username, found.password) == (TWO, "main", "me", SECRET)


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("REDIS_URL", f"redis+cluster://:{SECRET}@h", "Redis Cluster cannot keep the queue"),
        ("REDIS_URL", f"rediscluster://:{SECRET}@h", "Redis Cluster cannot keep the queue"),
        ("BROKER_URL", f"redis+cluster://:{SECRET}@h", "Redis Cluster cannot keep the queue"),
        ("REDIS_URL", f"amqp://:{SECRET}@h", "expected a URL that begins with redis://"),
        ("REDIS_URL", f"h1:6379?{SECRET}", "expected a URL that begins with redis://"),
        ("BROKER_URL", "memory://", "expected the URL of a broker that Celery supports"),
        ("BROKER_URL", f"valkey://:{SECRET}@h", "expected the URL of a broker that Celery supports"),
        ("BROKER_URL", f"sentinel://:{SECRET}@h1", "master_name=mymaster"),
        ("REDIS_URL", f"sentinel://:{SECRET}@h1:port/0?master_name=x", "master_name=mymaster"),
        ("REDIS_URL", f"valkey://:{SECRET}@h", "expected a URL that begins with redis://"),
        ("REDIS_URL", "redis://", "expected a URL such as redis://"),
        ("REDIS_URL", f"redis://:{SECRET}@:6379/0", "expected a URL such as redis://"),
        ("REDIS_URL", f"redis://:a#{SECRET}@h/0", "expected a URL such as redis://.*BACKBURNER_REDIS_PASSWORD"),
        ("REDIS_URL", f"redis://me:12#{SECRET}@h/0", "expected a URL such as redis://"),
        ("REDIS_URL", "redis://h:0/0", "expected a URL such as redis://"),
        ("REDIS_URL", f"redis://:a?{SECRET}@h/0", "expected a URL such as redis://"),
        ("REDIS_URL", f"redis://:a/{SECRET}@h/0", "expected a URL such as redis://"),
        ("REDIS_URL", f"redis://h:{SECRET}/0", "expected a URL such as redis://"),
        ("REDIS_URL", f"redis://h/{SECRET}", "expected a URL such as redis://"),
        ("REDIS_URL", f"redis://h/0?socket_timeout={SECRET}", "an option that Redis. client does not know"),
        ("REDIS_URL", f"redis://h/0?tls={SECRET}", "an option that Redis. client does not know"),
        ("REDIS_URL", "redis://h/0?ssl_cert_reqs=none", "expected a URL that begins with rediss://"),
        ("REDIS_URL", f"rediss://h/0?ssl_cert_reqs={SECRET}", "expected ssl_cert_reqs=required"),
        ("REDIS_URL", f"rediss://h/0?ssl_ca_certs=/{SECRET}", "the file that ssl_ca_certs names cannot be read"),
        ("BROKER_URL", f"rediss://:{SECRET}@:6379/0", "expected a URL such as redis://"),
        (
            "BROKER_URL",
            f"amqps://me:{SECRET}@h//?ssl_ca_certs=/none",
            "the file that ssl_ca_certs names cannot be read",
        ),
        ("BROKER_URL", f"amqps://me:{SECRET}@h//?ssl_hope=1", "ssl_hope is not an option there"),
        ("BROKER_URL", f"amqps://me@h//?ssl_cert_reqs={SECRET}", "expected ssl_cert_reqs=required"),
        ("BROKER_URL", f"unix:///x?{SECRET}=1", "an option that Redis. client does not know"),
        ("BROKER_OPTIONS", f'["{SECRET}"]', "expected a JSON object"),
        ("BROKER_OPTIONS", "{", "expected a JSON object"),
        ("NAMESPACE", "Back Burner", "pattern"),
        ("NAMESPACE", "*", "pattern"),
    ],
)
def test_what_cannot_work_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv(f"BACKBURNER_{variable}", value)
    with pytest.raises(SettingsError, match=f"BACKBURNER_{variable}: .*{says}") as reported:
        load_settings()
    assert SECRET not in str(reported.value)


def test_a_scheme_in_capitals_is_the_same() -> None:
    settings = load_settings(redis_url="REDIS://Me:Pa@H/0", broker_url="Rediss://H/1")
    assert (settings.redis, settings.broker) == ("redis://Me:Pa@H/0", "rediss://H/1")


def test_every_broker_of_celerys_is_taken_that_processes_can_share() -> None:
    assert {each.lower() for each in TRANSPORT_ALIASES} - BROKER_SCHEMES == {"memory"}


@pytest.mark.parametrize(("scheme", "package"), [(each, package) for each, (_, package) in BROKER_LIBRARIES.items()])
def test_a_broker_whose_library_is_missing_is_one_line_that_names_it(scheme: str, package: str) -> None:
    """None of them is among our dependencies."""
    with pytest.raises(SettingsError, match=r"BACKBURNER_BROKER_URL: the library for .* is not installed") as reported:
        load_settings(broker_url=f"{scheme}://me:{SECRET}@h//")
    assert package in str(reported.value)
    assert SECRET not in str(reported.value)


@pytest.mark.parametrize("scheme", sorted(BROKER_SCHEMES - BROKER_LIBRARIES.keys()))
def test_any_other_broker_needs_no_more(scheme: str) -> None:
    settings = load_settings(broker_url=f"{scheme}://me@h{'/0?master_name=main' if scheme == 'sentinel' else '//'}")
    assert create_celery(settings).connection_for_write().transport is not None


@pytest.mark.parametrize(
    ("url", "given", "tls"),
    [
        ("rediss://me:p%40@h:1/2", "rediss://me:p%40@h:1/2", {"ssl_cert_reqs": "required"}),
        ("rediss://h", "rediss://h/0", {"ssl_cert_reqs": "required"}),
        ("rediss://h?ssl_cert_reqs=CERT_NONE&db=3", "rediss://h/3", {"ssl_cert_reqs": "none"}),
        (
            "rediss://h/0?ssl_check_hostname=false&ssl_cert_reqs=CERT_REQUIRED",
            "rediss://h/0",
            {"ssl_cert_reqs": "required", "ssl_check_hostname": False},
        ),
        ("redis://:p@ss@h/1?socket_timeout=3", "redis://:p@ss@h/1", {}),
    ],
)
def test_certificates_are_verified_unless_the_url_says_not_to(url: str, given: str, tls: dict[str, object]) -> None:
    app = create_celery(load_settings(redis_url=url))
    assert (app.conf.broker_url, app.conf.broker_use_ssl) == (given, tls)


@pytest.mark.parametrize("url", ["unix:///run/valkey.sock", "unix:///run/valkey.sock?db=2", "redis+socket:///run/x"])
def test_messages_wait_in_a_server_behind_a_unix_socket_too(url: str) -> None:
    app = create_celery(load_settings(broker_url=url))
    assert app.conf.worker_disable_prefetch
    assert app.conf.broker_url.startswith("redis+socket:///run/")
