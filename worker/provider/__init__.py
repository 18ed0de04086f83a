"""One call to the provider and what it came to.

`request` says what goes out and `client` sends it, holding a `line` that anybody may cut. What comes back is read by
`wire` (with `output`, `spending` and `complaint` for its parts) and judged by `classify`. Only
`exchange`, `httpx_clients` and `line` touch the network; nobody outside this package sees the provider's JSON.
"""
