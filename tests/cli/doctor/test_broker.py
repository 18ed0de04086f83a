"""Checks of Redis, the broker and the embedded Valkey."""

from pathlib import Path

import pytest

from cli.up import valkey
from tests.cli.doctor.diagnosis import diagnose
from tests.support.valkey import ClusterServer, ValkeyServer


def test_a_cluster_is_an_error_of_the_broker(healthy: pytest.MonkeyPatch) -> None:
    """It passed once, as it accepts connections and answers a ping."""
    with ClusterServer() as cluster:
        healthy.setenv("BACKBURNER_REDIS_URL", cluster.url)
        status, results = diagnose()
    assert status == 1
    assert "is a Redis Cluster, which cannot keep the queue" in results["broker"][0]["message"]


@pytest.mark.parametrize("command", ["-publish", "-subscribe"])
def test_a_redis_user_that_may_not_publish_or_subscribe_is_a_warning(
    healthy: pytest.MonkeyPatch, valkey: ValkeyServer, command: str
) -> None:
    with valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "app", "on", ">hush", "~*", "&*", "+@all", command)
    healthy.setenv("BACKBURNER_REDIS_URL", f"redis://app:hush@127.0.0.1:{valkey.port}/0")
    _, results = diagnose()
    (redis,) = results["redis"]
    assert redis["status"] == "warning"
    assert "NOPERM" in redis["message"]
    assert command[1:] in redis["message"]
    assert results["broker"][0]["status"] == "ok"


def test_the_check_of_the_broker_leaves_no_key_behind(healthy: pytest.MonkeyPatch, valkey_url: str) -> None:
    _, results = diagnose()
    assert results["broker"][0]["message"].endswith("takes messages and delivers them")
    with ValkeyServer.client_of(valkey_url) as client:
        assert [key for key in client.keys("*") if b"trial" in key] == []


def test_the_embedded_valkey_of_up_is_found(healthy: pytest.MonkeyPatch, home: Path, valkey: ValkeyServer) -> None:
    healthy.delenv("BACKBURNER_REDIS_URL")
    with valkey.client() as client:
        client.config_set("requirepass", "hush")
    (home / ".backburner/valkey").mkdir(parents=True)
    (home / ".backburner/valkey/valkey.conf").write_text(f"port {valkey.port}\nrequirepass hush\n")
    (home / ".backburner").chmod(0o700)
    status, results = diagnose()
    assert status == 0
    assert results["redis"][0]["message"] == f"redis://:**@127.0.0.1:{valkey.port}/0"
    assert results["broker"][0]["status"] == "ok"


def test_a_directory_without_a_valkey_has_no_url(tmp_path: Path) -> None:
    assert valkey.last_url(tmp_path) is None
