"""The connection of a worker to a broker that dies."""

import os
import select
import socket
import socketserver
import subprocess
import sys
from pathlib import Path
from threading import Thread

from jobs.celery_app import EXECUTE, configure_queues, create_celery
from jobs.settings import load_settings
from jobs.task_queue import TaskQueue
from tests.support.names import NAMES, NAMESPACE, get_names
from tests.support.server import HOST
from tests.support.stack import ROOT
from tests.support.valkey import ValkeyServer

COMMAND_LINE = ["celery", "-A", "worker.main", "worker", "-P", "gevent"]
AS_A_WORKER = """
import sys
import celery
sys.argv = {command_line}
celery.maybe_patch_concurrency()
import gevent
import worker.main
from kombu.utils.functional import retry_over_time

def reach_the_broker():
    raise OSError

beats = []

def beat():
    while True:
        beats.append(1)
        gevent.sleep(0.05)

gevent.spawn(beat)
try:
    retry_over_time(reach_the_broker, OSError, max_retries=1, interval_start=1)
except OSError:
    print(len(beats))
"""


def test_a_worker_survives_a_broker_that_dies_while_a_message_is_handled(valkey: ValkeyServer) -> None:
    app = create_celery(load_settings(redis_url=valkey.url, data_dir="unused"))
    configure_queues(app, NAMES)
    app.send_task(EXECUTE, args=("resp_1",), ignore_result=True)
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        message = channel.basic_get(NAMES.calls)
        assert message is not None
        assert channel.qos._delivered
        valkey.kill()
        channel._pool = None
        channel.connection.client = None  # as Celery's consumer finds it
        channel.close()  # raised AttributeError, and the worker ended
    app.close()


def test_a_worker_goes_on_while_it_waits_for_a_broker_that_is_away(tmp_path: Path) -> None:
    environment = {**os.environ, "BACKBURNER_DATA_DIR": str(tmp_path), "BACKBURNER_NAMESPACE": NAMESPACE}
    command = [sys.executable, "-c", AS_A_WORKER.format(command_line=COMMAND_LINE)]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 5  # it was 1: while the broker was away, no heartbeat was sent and no answer read


def test_a_connection_that_breaks_within_a_command_means_that_the_broker_is_away(valkey: ValkeyServer) -> None:
    """It used to be an unexpected exception, and a submit got a 500."""

    class BreakingOff(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((HOST, valkey.port)) as far:
                other = {self.request: far, far: self.request}
                while ready := select.select(list(other), [], [])[0]:
                    data = ready[0].recv(65_536)
                    if not data or b"EXISTS" in data:
                        return
                    other[ready[0]].sendall(data)

    with socketserver.ThreadingTCPServer((HOST, 0), BreakingOff) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        settings = load_settings(redis_url=f"redis://{HOST}:{server.server_address[1]}/0", data_dir="unused")
        app = create_celery(settings)
        assert TaskQueue(app, get_names).depth() is None
        app.close()
        server.shutdown()
