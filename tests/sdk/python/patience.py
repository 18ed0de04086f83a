"""What takes longer than clients and proxies wait in silence. These go first: the others run meanwhile."""

from openai.types.responses import Response

from tests.sdk.python.retries import through
from tests.sdk.python.user import MODEL, Facts, User, scenario

# The server sends the headers of a held answer after 20 s and something at least every 15 s from then on.
PATIENCE = 22


@scenario
def held_longer_than_the_read_timeout(user: User) -> Facts:
    prompt = user.prompt("full text=Late. delay=25")
    raw = user.client(timeout=PATIENCE).responses.with_raw_response.create(model=MODEL, input=prompt)
    response: Response = raw.parse()
    return {
        "text": response.output_text,
        "id_in_the_headers": raw.headers["openai-response-id"] == response.id,
        "billed_calls": user.billed_calls(prompt),
    }


@scenario
def failed_after_the_headers(user: User) -> Facts:
    response = user.lenient().client().responses.create(model=MODEL, input=user.prompt("400-value delay=21"))
    assert response.error is not None
    return {"status": response.status, "code": response.error.code}


@scenario
def connection_cut_after_the_headers(user: User) -> Facts:
    prompt = user.prompt("full text=Kept. delay=24")
    response = through(user, "cut-late").responses.create(model=MODEL, input=prompt)
    return {"text": response.output_text, "billed_calls": user.billed_calls(prompt)}


@scenario
def wire_of_a_quiet_stream(user: User) -> Facts:
    with user.client().responses.with_streaming_response.create(
        model=MODEL, input=user.prompt("full text=Wire. delay=18"), stream=True
    ) as raw:
        content_type, request_id = raw.headers["content-type"], raw.headers["x-request-id"]
        lines = list(raw.iter_lines())
    return {
        "content_type": content_type.partition(";")[0],
        "request_id": request_id[:4],
        "fields": sorted({line.partition(":")[0] for line in lines if line}),
        "ends_with_a_blank_line": lines[-1] == "",
    }
