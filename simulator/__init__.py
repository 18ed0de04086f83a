"""The provider's real HTTP on loopback, with faults on request: for the first run, the tests and the benchmarks.

`simulator.script` documents the directive language, `simulator.admin_api` the routes that look behind the scenes, and
`simulator.options` every setting. Start it as `python -m simulator --port 0`, or call `simulator.main.run`.
"""
