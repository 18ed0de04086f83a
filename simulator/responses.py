"""POST /v1/responses: checks the call, chooses its step, sends the answer and records the call."""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from simulator.answers import Answer, build_answer, is_billed
from simulator.background import BackgroundResponses
from simulator.call_log import Call, Outcome, SentRequest
from simulator.catalogue import is_offered
from simulator.errors import HttpError, error_reply, invalid_body_reply, named_reply, scripted_reply
from simulator.faults import AnswerSender, send_early_fault
from simulator.http_server import Reply, Request, ResponseWriter
from simulator.keys import accepted_key
from simulator.recorded_answers import RecordedAnswer
from simulator.request import ProviderRequest, read_request
from simulator.rules import BodyInvalid, check_body
from simulator.script import EARLY_FAULTS, ScriptError, Step, is_http_error
from simulator.script_runner import answer_delay
from simulator.state import State

_CLIENT_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Responses:
    """The route that creates responses."""

    def __init__(self, state: State, background: BackgroundResponses) -> None:
        self._state = state
        self._background = background

    async def create(self, request: Request, writer: ResponseWriter) -> None:
        """Answer one call as its script says, or with a fault."""
        call_log, options = self._state.call_log, self._state.options
        call = call_log.open(_client_request_id(request.headers), accepted_key(request, options))
        if options.bodies_limit:
            call_log.keep_request(call, _sent(request), options.bodies_limit)
        try:
            outcome = await self._answer(call, request, writer)
        except HttpError as error:
            call.http_status = error.reply.status
            reply = error.reply
            reply.headers = {**call.tracing_headers(), **reply.headers}
            await writer.send(reply)
            outcome = Outcome.REFUSED
        except asyncio.CancelledError:
            call.client_closed_at = writer.disconnected_at
            is_disconnected = writer.disconnected_at is not None
            call_log.finish(
                call, Outcome.CLIENT_DISCONNECTED if is_disconnected else Outcome.STOPPED, options.ledger_limit
            )
            raise
        if outcome is not Outcome.RUNNING:  # a background call continues without its connection
            call_log.finish(call, outcome, options.ledger_limit)

    async def _answer(self, call: Call, request: Request, writer: ResponseWriter) -> Outcome:
        parsed, step, recorded = self._admit(call, request)
        if recorded is not None:
            step = recorded.with_usage(step)
            if recorded.status >= 400:
                await asyncio.sleep(step.delay or 0)
                raise HttpError(Reply(recorded.status, recorded.body, headers=recorded.headers))
        if step.behaviour in EARLY_FAULTS or is_http_error(step.behaviour):
            await asyncio.sleep(step.delay or 0)
            self._bill(call, step, parsed)
            if is_http_error(step.behaviour):
                raise HttpError(scripted_reply(step, request.path))
            return await send_early_fault(writer, step)
        options = self._state.options
        delay = answer_delay(options, step, call.inference_id)
        if parsed.background and options.native_background:
            answer = self._build(call, step, parsed)
            call.http_status = 200
            await writer.send(self._background.submit(call, answer, delay, billed=is_billed(step), recorded=recorded))
            return Outcome.RUNNING
        sender = AnswerSender(
            writer=writer,
            headers=call.tracing_headers(),
            step=step,
            delay=delay,
            stream=parsed.stream,
            recorded=recorded,
            build=lambda: self._build(call, step, parsed),
            bill=lambda: self._bill(call, step, parsed),
        )
        try:
            return await sender.send()
        except asyncio.CancelledError:
            if writer.disconnected_at is not None and options.bill_disconnects:
                self._bill(call, step, parsed)
            raise
        finally:
            call.http_status = 200 if writer.started else None

    def _bill(self, call: Call, step: Step, parsed: ProviderRequest) -> None:
        if not is_billed(step):
            return
        if call.response_id is None:  # this answer will not be sent, but its price is recorded
            self._build(call, step, parsed)
        self._state.call_log.bill(call)

    def _build(self, call: Call, step: Step, parsed: ProviderRequest) -> Answer:
        answer = build_answer(step, parsed, self._state.options.cost)
        call.response_id = answer.body["id"]
        if self._state.options.rules == "openai":
            self._state.issued.remember(answer.body["output"] or ())
        call.input_tokens, call.output_tokens, call.usd = answer.input_tokens, answer.output_tokens, answer.usd
        return answer

    def _admit(self, call: Call, request: Request) -> tuple[ProviderRequest, Step, RecordedAnswer | None]:
        """Check the call. Return its request, its step, and the recorded answer if the step names one.

        Raises:
            HttpError: the provider refuses the call.
        """
        options, path = self._state.options, request.path
        if call.api_key is None:
            raise HttpError(named_reply("401", path))
        if request.oversized:
            raise HttpError(named_reply("413", path))
        if options.balance is not None and self._state.call_log.spent_usd >= options.balance:
            raise HttpError(named_reply("403", path))
        if options.max_concurrency is not None and self._state.call_log.in_flight > options.max_concurrency:
            raise HttpError(named_reply("429", path))
        body = _parse_json(request)
        request.body = b""  # a held call would keep it for minutes
        _describe(call, body, self._state)
        try:
            check_body(body, options.rules, self._state.issued)
            parsed = read_request(body)
            call.prompt_sha256 = parsed.prompt_sha256
            self._check_offer(parsed, path)
            script_runner = self._state.script_runner
            step = script_runner.choose(options, parsed, call.client_request_id)
            recorded = None
            if step.recorded is not None:
                recorded = script_runner.recorded(options, step.recorded, parsed, call.client_request_id)
        except BodyInvalid as error:
            raise HttpError(invalid_body_reply(error, options.rules, path)) from None
        except ScriptError as error:
            raise HttpError(error_reply(400, f"simulator script: {error}", path)) from None
        call.script = step.source
        if step.behaviour == "overflow" and parsed.settings.get("truncation") == "auto":
            step = replace(step, behaviour="full")
        return parsed, step, recorded

    def _check_offer(self, parsed: ProviderRequest, path: str) -> None:
        options = self._state.options
        if not is_offered(parsed.model, options):
            raise HttpError(error_reply(404, f"No endpoints found for {parsed.model}.", path))
        if parsed.background and parsed.stream and options.native_background:
            raise HttpError(error_reply(400, "The simulator does not stream background responses", path))


def _parse_json(request: Request) -> Mapping[str, Any]:
    try:
        body = json.loads(request.body)
    except (ValueError, RecursionError) as error:
        raise HttpError(error_reply(400, f"{error} is not valid JSON", request.path)) from None
    if not isinstance(body, dict):
        raise HttpError(error_reply(400, "Body validation error\nExpected object", request.path))
    return body


def _describe(call: Call, body: Mapping[str, Any], state: State) -> None:
    """Record what the request says about itself, valid or not."""
    call.request_keys = state.call_log.intern_keys(tuple(body))
    model, truncation = body.get("model"), body.get("truncation")
    stream, background, store = body.get("stream"), body.get("background"), body.get("store")
    call.model = model if isinstance(model, str) else None
    call.truncation = truncation if isinstance(truncation, str) else None
    call.stream = stream if isinstance(stream, bool) else None
    call.background = background if isinstance(background, bool) else None
    call.store = store if isinstance(store, bool) else None


def _client_request_id(headers: Mapping[str, str]) -> str | None:
    """Return the client's id; None for one that the provider's rules do not allow, which it ignores silently."""
    given = headers.get("x-client-request-id", "")
    return given if _CLIENT_REQUEST_ID.fullmatch(given) else None


def _sent(request: Request) -> SentRequest:
    headers = {name: value for name, value in request.headers.items() if name != "authorization"}
    return SentRequest(headers, request.body)


async def not_found(request: Request, writer: ResponseWriter) -> None:
    """Answer any path that does not exist."""
    await writer.send(error_reply(404, f"Cannot {request.method} {request.path}", request.path))
