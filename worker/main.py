"""Composition root of the worker: `celery -A worker.main worker`.

The pool is gevent's, and what it patches must be patched before anything else is imported. Celery does so only when
`-P gevent` stands on its command line, so a worker started without it starts itself again, as
`worker.celery_adapter.command`.
"""

import os
import sys
import time

import gevent.monkey

if "worker" in sys.argv and not gevent.monkey.is_module_patched("socket"):  # pragma: no cover  # replaces the process
    at = sys.argv.index("worker")
    before, after = sys.argv[1:at], sys.argv[at + 1 :]
    quiet = [each for each in before if each in ("-q", "--quiet")]
    # with any other option of `celery` itself, or to be detached, it has to stay that command
    has_others = not {"-A", "--app", "worker.main", "--app=worker.main", *quiet}.issuperset(before)
    stays = has_others or not {"-D", "--detach"}.isdisjoint(after)
    again = (
        ["worker.celery_adapter.command", *quiet, *after] if not stays else ["celery", *sys.argv[1:], "-P", "gevent"]
    )
    os.execv(sys.executable, [sys.executable, "-m", *again])  # noqa: S606  # ourselves again

import kombu.utils.functional
from celery.signals import setup_logging

from jobs.celery_app import configure_queues, create_celery
from jobs.settings import ignored_variables, load_settings
from jobs.store.database import usable_database
from jobs.store.installation import Installation
from jobs.telemetry import configure_logging, log_ignored
from worker import flower_auth
from worker.celery_adapter import remote_control
from worker.celery_adapter.resolver import AddressesAtOnce
from worker.process import WorkerProcess, install
from worker.startup_checks import find_names
from worker.tasks import register_tasks

# Importing gevent makes Celery's lazy package import kombu, before anything is patched. The sleep that kombu then keeps
# stops the whole process between two tries to reach a broker that is away: no heartbeat, no answer read.
kombu.utils.functional.sleep = time.sleep  # type: ignore[attr-defined]  # it is not kombu's to export

# Who spawned a greenlet, with up to ten frames of its stack, is of use to nobody here (decision 0007).
gevent.config.track_greenlet_tree = False
gevent.config.resolver = AddressesAtOnce

settings = load_settings()
ignored = ignored_variables()
app = create_celery(settings)
database = usable_database(settings.database)
names = find_names(Installation(database, settings.namespace))
configure_queues(app, names)
process = WorkerProcess(settings, app, database, names)
register_tasks(app, process)
install(app, process)
remote_control.restrict()
if "flower" in sys.argv:
    flower_auth.close(os.environ)


def _configure(**_: object) -> None:
    configure_logging(settings)
    log_ignored(ignored)


setup_logging.connect(_configure)
