"""The body of `POST /v1/responses`: its schema, its checks, and its errors in OpenAI's words."""
