"""`backburner up`: everything on one machine, in the foreground."""
