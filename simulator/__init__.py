"""A simulator of the provider's HTTP API on loopback, with faults on request: for the first run, tests and benchmarks.

`simulator.script` documents the directive language, `simulator.admin_api` the routes that show and change its state,
and `simulator.options` every setting. Start it with `python -m simulator --port 0`, or call `simulator.main.run`.
"""
