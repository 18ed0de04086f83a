"""What keeps every job moving: each step is a guarded change of rows, and any worker may run it."""
