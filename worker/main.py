"""Composition root of the worker: `celery -A worker.main worker`."""

import os
import sys

from worker.celery_adapter.restart import needs_gevent, restart_on_gevent

if needs_gevent():  # pragma: no cover  # replaces the process, before anything else is imported
    restart_on_gevent()

from celery.signals import setup_logging

from jobs.celery_app import configure_queues, create_celery
from jobs.settings import ignored_variables, load_settings
from jobs.store.database import usable_database
from jobs.store.installation import Installation
from jobs.telemetry import configure_logging, log_ignored
from worker.celery_adapter import flower_auth, patches
from worker.celery_adapter.lifecycle import install
from worker.process import WorkerProcess
from worker.startup import read_names
from worker.tasks import register_tasks

patches.apply()

settings = load_settings()
ignored = ignored_variables()
app = create_celery(settings)
database = usable_database(settings.database)
names = read_names(Installation(database, settings.namespace))
configure_queues(app, names)
process = WorkerProcess(settings, app, database, names)
register_tasks(app, process)
install(app, process)
if "flower" in sys.argv:
    flower_auth.require_password(os.environ)


def _configure(**_: object) -> None:
    configure_logging(settings)
    log_ignored(ignored)


setup_logging.connect(_configure)
