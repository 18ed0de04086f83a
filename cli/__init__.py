"""The `backburner` command: run everything on one machine with `up`, and use the API from a terminal."""
