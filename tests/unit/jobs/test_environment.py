"""Variables from elsewhere: Kubernetes', Celery's, misspelt ones, and secrets that stand in files."""

import os
from pathlib import Path

import pytest
from sqlalchemy import make_url

from cli.server_address import load_connection
from cli.up.child_environment import Part, environment_of
from jobs.celery_app import create_celery
from jobs.encryption import generate_key
from jobs.environment import PREFIX
from jobs.errors import SettingsError
from jobs.settings import WHOLE, Settings, ignored_variables, load_settings
from jobs.store.database import Database

SECRET = "hunter2-and-more"
SERVICES = {
    "BACKBURNER_SERVICE_HOST": "10.0.0.1",
    "BACKBURNER_SERVICE_PORT": "8000",
    "BACKBURNER_SERVICE_PORT_HTTP": "8000",
    "BACKBURNER_PORT": "tcp://10.0.0.1:8000",
    "BACKBURNER_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "BACKBURNER_PORT_8000_TCP_PROTO": "tcp",
    "BACKBURNER_PORT_8000_TCP_PORT": "8000",
    "BACKBURNER_PORT_8000_TCP_ADDR": "10.0.0.1",
    "BACKBURNER_REDIS_SERVICE_HOST": "10.0.0.2",
    "BACKBURNER_REDIS_PORT": "tcp://10.0.0.2:6379",
    "BACKBURNER_DNS_PORT": "udp://10.0.0.3:53",
    "BACKBURNER_DNS_PORT_53_UDP": "udp://10.0.0.3:53",
    "BACKBURNER_DNS_PORT_54_SCTP_ADDR": "10.0.0.3",
}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No variable of the machine and no `.env` but the test's own."""
    for name in [each for each in os.environ if each.startswith((PREFIX, "CELERY_", "AIMLAPI_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestKubernetes:
    @pytest.fixture(autouse=True)
    def services(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in SERVICES.items():
            monkeypatch.setenv(name, value)

    def test_its_variables_are_ignored_with_a_line(self, clean: Path) -> None:
        assert load_settings().port == 8000
        (line,) = ignored_variables()
        assert "Kubernetes" in line
        (clean / ".env").write_text("BACKBURNER_PORT=1234\n")
        assert load_settings().port == 1234

    def test_neither_a_client_nor_what_up_starts_reads_them(self) -> None:
        assert load_connection().port == 8000
        assert not SERVICES.keys() & environment_of(Part.API, {}).keys()


def test_celerys_own_variables_do_not_win(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BROKER_URL", "BROKER_READ_URL", "BROKER_WRITE_URL", "RESULT_BACKEND"):
        monkeypatch.setenv(f"CELERY_{name}", "redis://elsewhere:1/0")
    monkeypatch.setenv("CELERY_CONFIG_MODULE", "of_another_application")
    monkeypatch.setenv("BROKER_URL", "redis://elsewhere:1/0")
    (line,) = ignored_variables()
    assert "CELERY_" in line
    app = create_celery(load_settings(redis_url="redis://ours:2/0"))
    urls = (app.conf.broker_url, app.conf.broker_read_url, app.conf.broker_write_url, app.connection().as_uri())
    assert all("ours" in each for each in urls)
    assert app.conf.result_backend is None
    assert "BROKER_URL" not in os.environ  # the command `celery` would pass it on with the prefix


class TestUnknown:
    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("BACKBURNER_WORKER_CONCURENCY", "BACKBURNER_WORKER_CONCURRENCY"),
            ("BACKBURNER_REDIS_URI", "BACKBURNER_REDIS_URL"),
            ("BACKBURNER_API_KEYS", "BACKBURNER_API_KEY"),
            ("BACKBURNER_API_KEY_FLE", "BACKBURNER_API_KEY_FILE"),
        ],
    )
    def test_the_nearest_is_named(self, name: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(name, SECRET)
        assert ignored_variables() == [f"{name}: no setting of this release; ignored (did you mean {meant}?)"]

    def test_those_of_the_file_are_named_too(self, clean: Path) -> None:
        (clean / ".env").write_text("BACKBURNER_ZZZZZZ=1\nOTHER=2\n")
        assert ignored_variables() == ["BACKBURNER_ZZZZZZ: no setting of this release; ignored"]

    def test_ours_are_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("BASE_URL", "PORT", "API_KEY_FILE", "ENCRYPTION_KEYS_FILE", "TEST_POSTGRES_URL"):
            monkeypatch.setenv(PREFIX + name, "1")
        monkeypatch.setenv("AIMLAPI_API_KEY_FILE", "x")
        assert ignored_variables() == []

    def test_what_up_starts_does_not_repeat_what_up_has_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BACKBURNER_ZZZZZZ", "1")
        monkeypatch.setenv(WHOLE, "1")
        assert ignored_variables() == []


class TestSecrets:
    @pytest.mark.parametrize("variable", Settings.secret_variables())
    def test_each_may_stand_in_a_file(self, variable: str, clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        values = {
            "DATABASE_URL": f"postgresql://me:{SECRET}@h/x",
            "REDIS_URL": f"redis://:{SECRET}@h/0",
            "BROKER_URL": f"redis://:{SECRET}@h/0",
            "BROKER_OPTIONS": "{}",
            "ENCRYPTION_KEYS": generate_key(),
        }
        value = values.get(variable.removeprefix(PREFIX), SECRET)
        (clean / "secret").write_text(value + "\n")
        monkeypatch.setenv(f"{variable}_FILE", str(clean / "secret"))
        settings = load_settings()
        field = "provider_api_key" if variable.startswith("AIMLAPI") else variable.removeprefix(PREFIX).lower()
        found = getattr(settings, field)
        assert (found[0] if isinstance(found, list) else found).get_secret_value() == value

    def test_a_client_reads_its_key_from_one(self, clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (clean / "secret").write_text(SECRET + "\r\n")
        monkeypatch.setenv("BACKBURNER_API_KEY_FILE", "secret")
        assert load_connection().key() == SECRET

    def test_a_byte_order_mark_is_no_part_of_it(self, clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (clean / "secret").write_bytes(b"\xef\xbb\xbf" + SECRET.encode() + b"\r\n")
        monkeypatch.setenv("BACKBURNER_REDIS_PASSWORD_FILE", "secret")
        password = load_settings().redis_password
        assert password is not None
        assert password.get_secret_value() == SECRET

    @pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe", b"x" * 20])
    def test_a_file_that_cannot_be_used_is_named(
        self, content: bytes | None, clean: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if content is not None:
            (clean / "secret").write_bytes(content)
        if content and content.startswith(b"x"):
            monkeypatch.setenv("BACKBURNER_API_KEY", SECRET)
        monkeypatch.setenv("BACKBURNER_API_KEY_FILE", "secret")
        with pytest.raises(SettingsError, match=r"  BACKBURNER_API_KEY_FILE: \S") as reported:
            load_settings()
        assert SECRET not in str(reported.value)

    @pytest.mark.parametrize("variable", ["BACKBURNER_PROVIDER_API_KEY", "AIMLAPI_API_KEY", "BACKBURNER_API_KEY"])
    def test_a_newline_after_a_key_is_no_part_of_it_and_a_blank_in_it_is_refused(
        self, variable: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(variable, f" {SECRET}\r\n")
        settings = load_settings()
        found = settings.api_key if variable == "BACKBURNER_API_KEY" else settings.provider_api_key
        assert found is not None
        assert found.get_secret_value() == SECRET
        for wrong in (f"{SECRET} {SECRET}", f"{SECRET}\n{SECRET}", f"{SECRET}\u00fc"):
            monkeypatch.setenv(variable, wrong)
            with pytest.raises(SettingsError, match=r"API_KEY: expected a key without blanks") as reported:
                load_settings()
            assert SECRET not in str(reported.value)

    def test_up_tells_its_parts_a_secret_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("API_KEY", "PROVIDER_API_KEY", "REDIS_PASSWORD"):
            monkeypatch.setenv(f"{PREFIX}{name}_FILE", "file")
        reported = environment_of(Part.API, {"API_KEY": SECRET})
        assert {name for name in reported if name.startswith(PREFIX) and "_FILE" in name} == {
            "BACKBURNER_REDIS_PASSWORD_FILE"
        }
        assert reported["BACKBURNER_API_KEY"] == SECRET


class TestDatabaseUrl:
    @pytest.mark.parametrize(
        "scheme",
        [
            "postgres",
            "postgresql",
            "postgresql+psycopg",
            "postgresql+psycopg2",
            "postgresql+asyncpg",
            "postgres+pg8000",
        ],
    )
    def test_other_drivers_names_mean_ours(self, scheme: str) -> None:
        settings = load_settings(database_url=f"{scheme}://me:p%40@h:1/x?sslmode=require\n")
        assert settings.database == "postgresql://me:p%40@h:1/x?sslmode=require"
        Database(settings.database).close()

    @pytest.mark.parametrize(
        ("url", "hosts", "ports"),
        [
            ("me:p%40@one:1,two:2/x", "one,two", "1,2"),
            ("me:p%40@one,two/x", "one,two", "5432,5432"),
            ("me:p%40@[::1]:1,[::2]/x", "::1,::2", "1,5432"),
            ("me:p%40@/x?host=one,two&port=1,2", "one,two", "1,2"),
            ("me:p%40@/x?host=one,two&port=3", "one,two", "3,3"),
            ("me:p%40@/x?host=one:1,two:2", "one,two", "1,2"),
            ("me:p%40@/x?host=one:1&host=::2", "one,::2", "1,5432"),
        ],
    )
    def test_several_servers_may_be_named_in_any_form(self, url: str, hosts: str, ports: str) -> None:
        found = make_url(load_settings(database_url=f"postgresql://{url}").database)
        assert (found.username, found.password, found.host, found.port, found.database) == ("me", "p@", None, None, "x")
        assert found.query == {"host": hosts, "port": ports, "target_session_attrs": "read-write"}
        other = f"{url}{'&' if '?' in url else '?'}target_session_attrs=primary&options=-c%20a%3Db"
        query = make_url(load_settings(database_url=f"postgresql://{other}").database).query
        assert (query["target_session_attrs"], query["options"]) == ("primary", "-c a=b")

    @pytest.mark.parametrize(
        ("url", "says"),
        [
            ("postgresql://h1,h2,h3/x?port=1,2", "expected a port for each host"),
            ("postgresql://h1:secret,h2/x", "expected a port for each host"),
            ("postgresql+asyncpg://h/x?ssl=require", "sslmode=require"),
            ("postgresql+hope://h/x", "expected postgresql://"),
            ("sqlite+pysqlcipher:///x", "expected sqlite://"),
            ("postgresql://me:p@secret@h/x", "%40"),
            ("postgresql://h/x?pgbouncer=true&sslmode=require", "pgbouncer= is another client's option"),
            ("postgresql://h/x?secret=1", "an option is unknown after the"),
            ("postgresql://h/x?sslmode=secret", "expected one of disable, .*verify-full for sslmode"),
        ],
    )
    def test_what_cannot_work_is_named(self, url: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BACKBURNER_DATABASE_URL", url)
        with pytest.raises(SettingsError, match=f"BACKBURNER_DATABASE_URL: .*{says}") as reported:
            load_settings()
        assert "secret" not in str(reported.value)

    def test_the_options_of_postgresqls_client_are_taken(self) -> None:
        asked = "sslmode=verify-full&sslrootcert=/ca.pem&channel_binding=prefer&gssencmode=disable&prepare_threshold=0"
        Database(load_settings(database_url=f"postgresql://me@h/x?{asked}").database).close()


@pytest.mark.parametrize("name", ["a%2Fb", "a?b=c", "a#b", "a b", "d\u00fcr \u65e5\u672c", "a+b&c", "a;b", "100%"])
def test_the_database_is_where_the_data_folder_is(name: str, clean: Path) -> None:
    database = Database(load_settings(data_dir=str(clean / name)).database)
    with database.begin() as tx:
        tx.exec_driver_sql("CREATE TABLE x (y)")
    database.close()
    assert (clean / name / "backburner.db").exists()
    assert [each.name for each in clean.iterdir()] == [name]
