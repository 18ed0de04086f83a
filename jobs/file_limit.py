"""Number of files, sockets included, that a process may have open."""

import resource


def raise_file_limit(needed: int) -> int:
    """Raise the soft limit to the hard one, or to `needed` if there is no hard one, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or soft < hard:
        soft = max(soft, needed) if hard == resource.RLIM_INFINITY else hard
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft
