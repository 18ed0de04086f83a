"""Joins an SDK's own retry of a create to the job that its first try made, so that the call is not billed twice."""
