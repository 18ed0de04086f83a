"""HTTP in, rows out: what the official OpenAI SDKs speak to."""
