"""Messages that others may write to the broker: some that Celery never sends, and Celery's own commands."""

import base64
import json
from typing import Any

from tests.support.names import NAMES

CONTROL_CHANNEL = f"/0.{NAMES.control}.pidbox"


def envelope(headers: Any, body: str, properties: Any = None) -> bytes:
    """Return a message as kombu writes it to a list or a channel."""
    address = {"exchange": NAMES.calls, "routing_key": NAMES.calls}
    plain = {"delivery_tag": "a-tag", "delivery_info": address, "delivery_mode": 2, "priority": 0}
    given = {"body_encoding": "base64", "correlation_id": "x", **plain} if properties is None else properties
    kinds = {"content-type": "application/json", "content-encoding": "utf-8"}
    return json.dumps({"body": body, **kinds, "headers": headers, "properties": given}).encode()


def encoded(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


NOTHING = encoded([["resp_nobody"], {}, {}])
EXECUTE = {"lang": "py", "task": "backburner.execute", "id": "x", "root_id": "x", "parent_id": None}
RUBBISH = {
    "not UTF-8": b"\xff\xfe",
    "not JSON": b"{",
    "a number": b"5",
    "null": b"null",
    "a list": b"[]",
    "an empty object": b"{}",
    "brackets without end": b"[" * 200_000,
    "a number of 5,000 digits": b"9" * 5000,
    "no headers": envelope(None, NOTHING),
    "headers as a list": envelope(["task"], NOTHING),
    "properties as text": envelope(EXECUTE, NOTHING, "properties"),
    "no delivery tag": envelope(EXECUTE, NOTHING, {"body_encoding": "base64"}),
    "a task of a strange type": envelope({**EXECUTE, "task": ["backburner.execute"]}, NOTHING),
    "an unknown task": envelope({**EXECUTE, "task": "os.system"}, NOTHING),
    "an id of a strange type": envelope({**EXECUTE, "id": {"a": []}}, NOTHING),
    "a body that is no base64": envelope(EXECUTE, "%"),
    "a body that is a number": envelope(EXECUTE, encoded(5)),
    "too many arguments": envelope(EXECUTE, encoded([[1, 2, 3], {"x": 1}, {}])),
    "an argument of a strange type": envelope(EXECUTE, encoded([[{"a": 1}], {}, {}])),
    "a NUL in an id": envelope(EXECUTE, encoded([["resp_\0"], {}, {}])),
    "an expiry that is no date": envelope({**EXECUTE, "expires": "never"}, NOTHING),
    "a start that is no date": envelope({**EXECUTE, "eta": "never"}, NOTHING),
    "a start in a thousand years": envelope({**EXECUTE, "eta": "3026-01-01T00:00:00"}, NOTHING),
    "a time limit that is none": envelope({**EXECUTE, "timelimit": 5}, NOTHING),
    "retries beyond counting": envelope({**EXECUTE, "retries": 10**400}, NOTHING),
}
COMMANDS: dict[str, dict[str, Any]] = {
    "shutdown": {},
    "pool_shrink": {"n": 1000},
    "pool_grow": {"n": 1},
    "pool_restart": {},
    "cancel_consumer": {"queue": NAMES.calls},
    "add_consumer": {"queue": "another"},
    "autoscale": {"max": 1, "min": 0},
    "rate_limit": {"task_name": "backburner.execute", "rate_limit": "1/h"},
    "time_limit": {"task_name": "backburner.execute", "hard": 1},
    "revoke": {"task_id": ["resp_1"], "terminate": True},
    "terminate": {"signal": "KILL", "task_id": ["resp_1"]},
    "revoke_by_stamped_headers": {"headers": {"a": ["b"]}, "terminate": True},
    "disable_events": {},
    "hello": {"from_node": "celery@stranger", "revoked": {"resp_1": 0}},
    "election": {"id": "1", "topic": "t", "action": {}},
    "memsample": {},
    "memdump": {},
    "objgraph": {},
    "report": {},
    "query_task": {"ids": ["resp_1"]},
    "dump_conf": {},
}
