"""The `backburner` command: everything on one machine with `up`, and the API's verbs for people at a terminal."""
