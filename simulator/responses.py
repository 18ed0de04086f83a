"""POST /v1/responses: who may call, what the call gets, and its line in the ledger."""

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
from simulator.errors import Refused, named_refusal, refusal, refusal_of_body, scripted_refusal
from simulator.faults import Delivery, give_nothing
from simulator.http_server import Reply, Request, ResponseWriter
from simulator.keys import accepted_key
from simulator.recorded_answers import Recorded
from simulator.request import ProviderRequest, read_request
from simulator.rules import BodyInvalid, check_body
from simulator.script import EARLY_FAULTS, ScriptError, Step, is_refusal
from simulator.script_runner import answer_delay
from simulator.state import State

_CLIENT_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Responses:
    """The route that costs money."""

    def __init__(self, state: State, background: BackgroundResponses) -> None:
        self._state = state
        self._background = background

    async def create(self, request: Request, writer: ResponseWriter) -> None:
        """Answer one call, or do to it what its script says."""
        ledger, options = self._state.ledger, self._state.options
        call = ledger.open(_client_request_id(request.headers), accepted_key(request, options))
        if options.bodies_limit:
            ledger.keep_request(call, _sent(request), options.bodies_limit)
        try:
            outcome = await self._answer(call, request, writer)
        except Refused as refused:
            call.http_status = refused.reply.status
            reply = refused.reply
            reply.headers = {**_tracing_headers(call), **reply.headers}
            await writer.send(reply)
            outcome = Outcome.REFUSED
        except asyncio.CancelledError:
            call.client_closed_at = writer.client_left_at
            left = writer.client_left_at is not None
            ledger.finish(call, Outcome.CLIENT_DISCONNECTED if left else Outcome.STOPPED, options.ledger_limit)
            raise
        if outcome is not Outcome.RUNNING:  # a background call runs on without its connection
            ledger.finish(call, outcome, options.ledger_limit)

    async def _answer(self, call: Call, request: Request, writer: ResponseWriter) -> Outcome:
        turn, step, recorded = self._admit(call, request)
        if recorded is not None:
            step = recorded.booked(step)
            if recorded.status >= 400:
                await asyncio.sleep(step.delay or 0)
                raise Refused(Reply(recorded.status, recorded.body, headers=recorded.headers))
        if step.behaviour in EARLY_FAULTS or is_refusal(step.behaviour):
            await asyncio.sleep(step.delay or 0)
            self._bill(call, step, turn)
            if is_refusal(step.behaviour):
                raise Refused(scripted_refusal(step, request.path))
            return await give_nothing(writer, step)
        options = self._state.options
        delay = answer_delay(options, step, call.inference_id)
        if turn.background and options.native_background:
            answer = self._built(call, step, turn)
            call.http_status = 200
            await writer.send(self._background.submit(call, answer, delay, billed=is_billed(step), recorded=recorded))
            return Outcome.RUNNING
        delivery = Delivery(
            writer=writer,
            headers=_tracing_headers(call),
            step=step,
            delay=delay,
            stream=turn.stream,
            recorded=recorded,
            build=lambda: self._built(call, step, turn),
            bill=lambda: self._bill(call, step, turn),
        )
        try:
            return await delivery.run()
        except asyncio.CancelledError:
            if writer.client_left_at is not None and options.bill_disconnects:
                self._bill(call, step, turn)
            raise
        finally:
            call.http_status = 200 if writer.started else None

    def _bill(self, call: Call, step: Step, turn: ProviderRequest) -> None:
        if not is_billed(step):
            return
        if call.response_id is None:  # nobody will see this answer, but its price is known
            self._built(call, step, turn)
        self._state.ledger.bill(call)

    def _built(self, call: Call, step: Step, turn: ProviderRequest) -> Answer:
        answer = build_answer(step, turn, self._state.options.cost)
        call.response_id = answer.body["id"]
        if self._state.options.rules == "openai":
            self._state.issued.remember(answer.body["output"] or ())
        call.input_tokens, call.output_tokens, call.usd = answer.input_tokens, answer.output_tokens, answer.usd
        return answer

    def _admit(self, call: Call, request: Request) -> tuple[ProviderRequest, Step, Recorded | None]:
        """Check the call and choose its step, and the recorded answer where the step names one.

        Raises:
            Refused: the provider would not run it.
        """
        options, path = self._state.options, request.path
        if call.api_key is None:
            raise Refused(named_refusal("401", path))
        if request.oversized:
            raise Refused(named_refusal("413", path))
        if options.balance is not None and self._state.ledger.spent_usd >= options.balance:
            raise Refused(named_refusal("403", path))
        if options.max_concurrency is not None and self._state.ledger.in_flight > options.max_concurrency:
            raise Refused(named_refusal("429", path))
        body = _parsed(request)
        request.body = b""  # held calls would keep it for minutes
        _describe(call, body, self._state)
        try:
            check_body(body, options.rules, self._state.issued)
            turn = read_request(body)
            call.prompt_sha256 = turn.prompt_sha256
            self._check_offer(turn, path)
            script_runner = self._state.script_runner
            step = script_runner.choose(options, turn, call.client_request_id)
            recorded = None
            if step.recorded is not None:
                recorded = script_runner.recorded(options, step.recorded, turn, call.client_request_id)
        except BodyInvalid as error:
            raise Refused(refusal_of_body(error, options.rules, path)) from None
        except ScriptError as error:
            raise Refused(refusal(400, f"simulator script: {error}", path)) from None
        call.script = step.source
        if step.behaviour == "overflow" and turn.settings.get("truncation") == "auto":
            step = replace(step, behaviour="full")
        return turn, step, recorded

    def _check_offer(self, turn: ProviderRequest, path: str) -> None:
        options = self._state.options
        if not is_offered(turn.model, options):
            raise Refused(refusal(404, f"No endpoints found for {turn.model}.", path))
        if turn.background and turn.stream and options.native_background:
            raise Refused(refusal(400, "The simulator does not stream background responses", path))


def _parsed(request: Request) -> Mapping[str, Any]:
    try:
        body = json.loads(request.body)
    except (ValueError, RecursionError) as error:
        raise Refused(refusal(400, f"{error} is not valid JSON", request.path)) from None
    if not isinstance(body, dict):
        raise Refused(refusal(400, "Body validation error\nExpected object", request.path))
    return body


def _describe(call: Call, body: Mapping[str, Any], state: State) -> None:
    """Note in the ledger what the request says of itself, valid or not."""
    call.request_keys = state.ledger.shared(tuple(body))
    model, truncation = body.get("model"), body.get("truncation")
    stream, background, store = body.get("stream"), body.get("background"), body.get("store")
    call.model = model if isinstance(model, str) else None
    call.truncation = truncation if isinstance(truncation, str) else None
    call.stream = stream if isinstance(stream, bool) else None
    call.background = background if isinstance(background, bool) else None
    call.store = store if isinstance(store, bool) else None


def _client_request_id(headers: Mapping[str, str]) -> str | None:
    """The client's id; one that the provider's rules do not allow is dropped in silence."""
    given = headers.get("x-client-request-id", "")
    return given if _CLIENT_REQUEST_ID.fullmatch(given) else None


def _tracing_headers(call: Call) -> dict[str, str]:
    headers = {"x-inference-id": call.inference_id}
    if call.client_request_id is not None:
        headers["x-client-request-id"] = call.client_request_id
    return headers


def _sent(request: Request) -> SentRequest:
    headers = {name: value for name, value in request.headers.items() if name != "authorization"}
    return SentRequest(headers, request.body)


async def not_found(request: Request, writer: ResponseWriter) -> None:
    """Any path that does not exist."""
    await writer.send(refusal(404, f"Cannot {request.method} {request.path}", request.path))
