"""Everything that adapts Celery and gevent to long calls, each part with its reason."""
