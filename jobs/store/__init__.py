"""Every table and every SQL statement. Only `jobs` here writes a job's status."""
