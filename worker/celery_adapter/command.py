"""`python -m worker.celery_adapter.command`: Celery's worker command on the gevent pool, alone.

The command line `celery` imports all its other commands and their plugins, Flower among them. Every worker would hold
them in memory: docs/decisions/0003.
"""

import os
import sys

from celery import maybe_patch_concurrency

POOL = ("-P", "gevent")
OTHER_APPS = ("CELERY_LOADER", "CELERY_CONFIG_MODULE")
"""Variables that name modules. gevent touches Celery's default application, which would import them."""

hidden = {name: os.environ.pop(name) for name in OTHER_APPS if name in os.environ}
maybe_patch_concurrency(POOL)  # what gevent patches must be patched before anything else is imported
os.environ |= hidden  # `worker.main` logs that they are ignored

from celery.bin.base import CLIContext  # noqa: E402  # not before gevent has patched
from celery.bin.worker import worker  # noqa: E402  # likewise

from worker.celery_adapter.restart import QUIET  # noqa: E402  # likewise
from worker.main import app  # noqa: E402  # likewise

# Celery takes --quiet before the name of its command: the command itself does not know it.
arguments = [each for each in sys.argv[1:] if each not in QUIET]
quiet = len(arguments) < len(sys.argv) - 1
worker(args=[*arguments, *POOL], obj=CLIContext(app, no_color=None, workdir=None, quiet=quiet))
