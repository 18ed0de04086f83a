"""How every process logs: one line per transition, ids and durations only.

Prompts, answers and secrets never reach a log; what could hold them is never passed to one.
"""

import logging
import sys
from collections.abc import Iterable
from typing import Any

# Decision 0007: structlog would load Rich and all that it can highlight, to draw tracebacks as we do not want them.
if "rich" in sys.modules:
    import structlog
else:
    sys.modules["rich"] = None  # type: ignore[assignment]  # the documented way to let an import fail
    import structlog

    del sys.modules["rich"]

from jobs.settings import Settings


def configure_logging(settings: Settings) -> None:
    """Send our lines and the libraries' through one formatter to stderr: for people on a terminal, else JSON."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    console = settings.log_format == "console" or (settings.log_format is None and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    # the default shows the locals of every frame, prompts and keys among them
    for_people = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer: Any = for_people if console else structlog.processors.JSONRenderer()
    if console:
        shared.remove(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for noisy in ("httpx", "httpcore", "kombu", "amqp", "uvicorn.access", "celery.app.trace", "alembic"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
    # its warnings repeat what our own dispatcher says when the broker is away
    logging.getLogger("celery.worker.strategy").setLevel(max(level, logging.WARNING))


def log_to_stderr() -> None:
    """Send our lines to stderr as structlog writes them: the stdout of a command is for what was asked for."""
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of one module."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def log_ignored(variables: Iterable[str]) -> None:
    """Say of each variable that looks like ours and is ignored that it is, and why."""
    for each in variables:
        get_logger(__name__).warning("variable ignored", reason=each)
