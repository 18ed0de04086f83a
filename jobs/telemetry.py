"""Logging of every process: one line per transition, with ids and durations only.

Prompts, answers and secrets never reach a log, and values that could hold them are never passed to one.
"""

import logging
import sys
from collections.abc import Iterable
from typing import Any

# Decision 0006: structlog would load Rich and its highlighters for tracebacks, which we do not want.
if "rich" in sys.modules:
    import structlog
else:
    sys.modules["rich"] = None  # type: ignore[assignment]  # the documented way to let an import fail
    import structlog

    del sys.modules["rich"]

from jobs.settings import Settings


def configure_logging(settings: Settings) -> None:
    """Send our lines and those of libraries to stderr in one format: readable on a terminal, else JSON."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    console = settings.log_format == "console" or (settings.log_format is None and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    # the default shows the local variables of every frame, which may be prompts and keys
    for_people = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer: Any = for_people if console else structlog.processors.JSONRenderer()
    if console:
        shared.remove(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for noisy in ("httpx", "httpcore", "kombu", "amqp", "uvicorn.access", "celery.app.trace", "alembic"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
    # its warnings repeat those of our enqueuer when the broker is unavailable
    logging.getLogger("celery.worker.strategy").setLevel(max(level, logging.WARNING))


def log_to_stderr() -> None:
    """Send our lines to stderr in structlog's format: the stdout of a command is for its result."""
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of one module."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def log_ignored(variables: Iterable[str]) -> None:
    """Log each variable that looks like ours but is ignored, with the reason."""
    for each in variables:
        get_logger(__name__).warning("variable ignored", reason=each)
