"""`python -m worker.celery_adapter.command`: Celery's own worker command on the gevent pool, alone.

The command line `celery` imports all its other commands and their plugins, Flower among them, which every worker would
then hold: decision 0003.
"""

import os
import sys

from celery import maybe_patch_concurrency

POOL = ("-P", "gevent")
OF_ANOTHER = ("CELERY_LOADER", "CELERY_CONFIG_MODULE")
"""gevent touches whatever there is, Celery's own application among it, which then imports what these name."""

hidden = {name: os.environ.pop(name) for name in OF_ANOTHER if name in os.environ}
maybe_patch_concurrency(POOL)  # what gevent patches must be patched before anything else is imported
os.environ |= hidden  # until `worker.main` says that they are ignored

from celery.bin.base import CLIContext  # noqa: E402  # not before gevent has patched
from celery.bin.worker import worker  # noqa: E402  # likewise

from worker.main import app  # noqa: E402  # likewise

QUIET = ("-q", "--quiet")
"""Celery's own option before its command, which does not know it."""

arguments = [each for each in sys.argv[1:] if each not in QUIET]
quiet = len(arguments) < len(sys.argv) - 1
worker(args=[*arguments, *POOL], obj=CLIContext(app, no_color=None, workdir=None, quiet=quiet))
