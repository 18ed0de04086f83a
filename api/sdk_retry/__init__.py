"""The SDK-retry protocol: an SDK's own retry of a create joins the job of its lost first try, so it is billed once.

1. Each create by an SDK has the header `x-stainless-retry-count`: 0, or more if it is a retry. One with an
   `Idempotency-Key` needs no protocol.
2. The transaction that submits its job inserts an `UndeliveredCreate`: API key, SHA-256 of the body, request, process.
   If the client has left before the commit, the transaction is rolled back: the SDK's retry is on its way.
3. `TrackDelivery`, the outermost ASGI layer, knows when the response has been handed to an open connection (of a
   stream: its headers, after which no SDK retries). `UndeliveredTracker` then deletes the row. If the connection was
   lost before, it marks the row as lost.
4. The tracker writes a heartbeat every second. A process that stays silent for 5 seconds has lost all its creates.
5. A retry waits while any transaction is about to submit a create with the same API key and body.
6. It waits while such a create is undelivered and not known to be lost, until the heartbeat of its process is a second
   newer than the retry (its client still waits, and keeps its job) or the process is silent.
7. It takes over the job of the create that was lost first, if that was within 15 minutes. The row is then the retry's
   own, and may be lost and joined in turn. If no create was lost, the retry submits a job of its own.

`join` has steps 1 and 5 to 7, `tracker` 3 and 4, `api.submit_batch` 2; the rows are `jobs.store.undelivered_creates`.
Decision 0013 has the reasons: docs/decisions/0013-repeated-creates.md.
"""
