"""One call to the provider, and its result.

`request` and `request_dialect` make the body, `client` sends it and holds a `CallHandle` by which any thread may abort
the call. `response` reads what comes back (with `output`, `usage` and `error_body` for its parts) and `classify` judges
it. Only `http_exchange`, `httpx_clients` and `call_handle` touch the network. The provider's JSON does not leave this
package.
"""
