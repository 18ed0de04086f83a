"""Scenarios of the official SDKs' users, one test each, the same for every SDK.

The programs are `tests/sdk/python` and `tests/sdk/node/scenarios.mjs`; the test of a scenario has its name. Numbers
like [0.4] are those of the traps in `openai/contract.md` that the scenario would fall into.
"""

from typing import Any

import pytest

from tests.sdk.conftest import SDKS, Run, Sdk

MODEL = "openai/o3-pro"
REASONING_AND_TEXT = ["reasoning", "message"]
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
BEGUN = ["response.created", "response.queued", "response.in_progress"]
STREAM_OF_A_TEXT = [
    *BEGUN,
    "response.output_item.added",
    "response.output_item.done",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]
Facts = dict[str, Any]

pytestmark = pytest.mark.timeout(300)


def refused(status: int, code: str | None, param: str | None, **different: Any) -> Facts:
    """An exception of the class that the status stands for, complete, and after one request only. [0.2] [0.11]"""
    classes = {
        400: "BadRequestError",
        401: "AuthenticationError",
        403: "PermissionDeniedError",
        404: "NotFoundError",
        422: "UnprocessableEntityError",
        429: "RateLimitError",
    }
    types = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    return {
        "class": classes.get(status, "InternalServerError"),
        "status": status,
        "type": types.get(status, "invalid_request_error" if status < 500 else "server_error"),
        "code": code,
        "param": param,
        "message": True,
        "request_id": "req_",
        "requests": 1,
        **different,
    }


def test_every_scenario_has_a_test_and_runs_everywhere(runs: dict[str, Run]) -> None:
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    for run in runs.values():
        missing = tested.symmetric_difference(run.scenarios) - {"every_scenario_has_a_test_and_runs_everywhere"}
        assert not missing, f"{run.sdk.name} {run.version}:\n{run.errors}"
        assert {seen["absent"] for seen in run.seen.values() if "absent" in seen} == run.sdk.lacks
    assert len(runs) == len(SDKS)


# --- what takes longer than clients and proxies wait in silence


def test_held_longer_than_the_read_timeout(facts: Facts) -> None:
    """[0.3]"""
    assert facts == {"text": "Late.", "id_in_the_headers": True, "billed_calls": 1}


def test_failed_after_the_headers(facts: Facts) -> None:
    """[0.3] Once the headers are out there can be no other status."""
    assert facts == {"status": "failed", "code": "provider_rejected"}


def test_connection_cut_after_the_headers(facts: Facts, sdk: Sdk) -> None:
    """[0.1] Node never sends again what has begun to arrive; its user can poll by the id of the headers."""
    assert facts == {"text": "TypeError" if sdk.language == "node" else "Kept.", "billed_calls": 1}


def test_wire_of_a_quiet_stream(facts: Facts) -> None:
    """[0.6] A comment keeps it alive; never an `id` or a `retry`."""
    assert facts == {
        "content_type": "text/event-stream",
        "request_id": "req_",
        "fields": ["", "data", "event"],
        "ends_with_a_blank_line": True,
    }


# --- the life of a response


def test_background_and_poll(facts: Facts) -> None:
    """[0.4] [0.5]"""
    assert facts == {
        "submitted": ["queued", True, ""],
        "same_id": True,
        "status": "completed",
        "text": "Forty-two.",
        "model": "o3-pro-2025-06-10",  # as served
        "metadata": {"ticket": "4711"},
        "reasoning_tokens": 64,
        "request_id": "req_",
        "billed_calls": 1,
    }


def test_held_create(facts: Facts) -> None:
    assert facts == {"status": "completed", "background": False, "text": "Held.", "billed_calls": 1}


def test_waiting_in_the_queue(facts: Facts) -> None:
    """[0.4] [0.5]"""
    assert facts == {"status": "queued", "output": [], "text": "", "error": None, "usage": None}


def test_odd_answers(facts: Facts) -> None:
    """[0.4] [0.5]"""
    assert facts == {
        "sample-1": ["completed", "Hi! How’s your day going?", ["completed"]],  # noqa: RUF001  # the sample's own apostrophe
        "sample-2": ["completed", "Hello! How can I help you today?", ["completed"]],
        "output-null": ["completed", "Odd.", ["completed"]],
        "no-status": ["completed", "Odd.", ["completed"]],
        "in-progress-item": ["completed", "Odd.", ["completed"]],
    }


def test_items_of_unknown_types(facts: Facts) -> None:
    assert facts == {"text": "New.", "types": ["reasoning", "future_call", "message"]}


def test_refusal_of_the_model(facts: Facts) -> None:
    assert facts == {"status": "completed", "text": "", "parts": ["refusal"]}


def test_incomplete_answer(facts: Facts) -> None:
    assert facts == {"status": "incomplete", "text": "Once", "reason": "max_output_tokens"}


def test_failed_response(facts: Facts) -> None:
    """[0.15]"""
    assert facts == {"status": "failed", "code": "server_error", "message": True}


def test_failed_response_with_a_code_of_ours(facts: Facts) -> None:
    """[0.15] Only without strict validation."""
    assert facts == {"status": "failed", "code": "context_length_exceeded", "message": True}


def test_cancel_twice(facts: Facts) -> None:
    assert facts == {"statuses": ["cancelled", "cancelled", "cancelled"], "output": []}


def test_cancel_when_finished(facts: Facts) -> None:
    assert facts == {"status": "completed", "output": REASONING_AND_TEXT}


def test_cancel_without_background(facts: Facts) -> None:
    assert facts == refused(400, None, "response_id")


def test_delete(facts: Facts) -> None:
    assert facts == {"before": True, "after": []}


def test_deleted_response(facts: Facts) -> None:
    gone = refused(404, None, "response_id")
    assert facts == {"retrieve": gone, "cancel": gone, "delete": gone}


def test_pages_of_responses(facts: Facts) -> None:
    assert facts == {"first": 2, "more": True, "newest_first": True}


def test_models(facts: Facts) -> None:
    """[0.13]"""
    assert facts == {"listed": [MODEL], "id": MODEL, "owner": "openai", "object": "model"}


def test_raw_response(facts: Facts) -> None:
    """[0.12] [0.14]"""
    assert facts == {
        "content_type": "application/json",
        "request_id": True,
        "etag": True,
        "retry_after": True,
        "status": "queued",
    }


def test_what_it_gives_can_be_given_back(facts: Facts) -> None:
    """[0.15]"""
    assert facts == {"text": "Again.", "same": True}


def test_asynchronous_client(facts: Facts) -> None:
    assert facts == {"text": "One.", "held": ["0", "1", "2"], "streamed": "Streamed."}


# --- what goes into a request


def test_parameters(facts: Facts) -> None:
    assert facts == {
        "echoed_otherwise": {},
        "sent_otherwise": {"metadata": "(absent)", "store": "(absent)"},
        "sent_too": ["stream"],
    }


def test_parameters_of_newer_sdks(facts: Facts) -> None:
    """[0.17]"""
    assert facts == {
        "status": "completed",
        "sent": [
            "access_programs",
            "context_management",
            "image",
            "moderation",
            "prompt_cache_options",
            "prompt_cache_retention",
        ],
    }


def test_parameters_without_effect(facts: Facts) -> None:
    assert facts == {"sent": False, "obfuscated": False, "text": "Done.", "items": 1}


def test_parameters_nobody_knows(facts: Facts) -> None:
    assert facts == {"status": "completed", "sent": "cheerful"}


def test_parameters_of_ours(facts: Facts) -> None:
    assert facts == {"max_attempts": 2, "sent": []}


def test_stored_prompt(facts: Facts) -> None:
    assert facts == {"sent": {"id": "pmpt_1", "version": "2", "variables": {"name": "Ada"}}}


def test_tools_of_every_kind(facts: Facts) -> None:
    assert facts == {"echoed": True, "sent": True}


def test_tool_choices(facts: Facts) -> None:
    assert facts == {"lost": []}


def test_images_and_files(facts: Facts) -> None:
    assert facts == {"text": "Seen.", "sent": True}


def test_wrong_parameters(facts: Facts) -> None:
    """[0.11]"""
    assert facts == {
        "metadata": ["BadRequestError", "metadata"],
        "reasoning": ["BadRequestError", "reasoning.effort"],
        "text": ["BadRequestError", "text.format.type"],
        "tools": ["BadRequestError", "tools[0].type"],
        "tool_choice": ["BadRequestError", "tool_choice"],
        "truncation": ["BadRequestError", "truncation"],
        "include": ["BadRequestError", "include[0]"],
        "max_output_tokens": ["BadRequestError", "max_output_tokens"],
    }


# --- refusals


def test_error_classes(facts: Facts, sdk: Sdk) -> None:
    """[0.2] [0.11] [0.14]: none is tried again, for each of them is final or was paid for."""
    plain = "APIError" if sdk.language == "node" else "APIStatusError"
    assert facts == {
        "bad value": refused(400, "integer_below_min_value", "max_output_tokens"),
        "no input": refused(400, "missing_required_parameter", "input"),
        "wrong type": refused(400, "invalid_type", "background"),
        "bad key": refused(401, "invalid_api_key", None),
        "no scope": refused(403, "insufficient_permissions", None),
        "unknown id": refused(404, None, "response_id"),
        "somebody else's": refused(404, None, "response_id"),
        "unknown model": refused(404, "model_not_found", "model"),
        "unknown path": refused(404, None, None),
        "too large": refused(413, "request_too_large", None, **{"class": plain}),
        "provider refuses": refused(400, "provider_rejected", None),
        "context overflow": refused(400, "context_length_exceeded", "input"),
        "provider breaks": refused(400, "outcome_unknown", None),
        "provider is away": refused(400, "provider_unavailable", None),
        "answer is empty": refused(400, "empty_output", None),
        "deadline": refused(400, "deadline_exceeded", None),
    }


def test_provider_is_busy(facts: Facts) -> None:
    """[0.2] [0.14] No SDK sends it again: that is the worker's part, which tries until the deadline."""
    assert facts == {
        "too many requests": refused(504, "deadline_exceeded", None),
        "overloaded": refused(504, "deadline_exceeded", None),
    }


def test_conversation_is_refused(facts: Facts) -> None:
    assert facts == {
        "create": refused(400, "unsupported_parameter", "conversation"),
        "conversations": refused(404, "not_offered", None),
    }


def test_compact_is_refused(facts: Facts) -> None:
    assert facts == refused(404, "not_offered", None)


def test_models_cannot_be_deleted(facts: Facts, sdk: Sdk) -> None:
    plain = "APIError" if sdk.language == "node" else "APIStatusError"
    assert facts == refused(405, None, None, **{"class": plain})


def test_websocket_is_refused(facts: Facts) -> None:
    assert facts == {"status": 426}


# --- the SDK sends a request again by itself


def test_no_idempotency_key_by_itself(facts: Facts) -> None:
    """[0.1] Equal requests sent on purpose are two."""
    assert facts == {"ids": 2, "billed_calls": 2}


def test_idempotency_key(facts: Facts) -> None:
    """[0.1] [0.2]"""
    assert facts == {
        "ids": 1,
        "billed_calls": 1,
        "other_body": refused(422, "idempotency_key_reused", "Idempotency-Key"),
    }


def test_answer_later_than_the_timeout(facts: Facts) -> None:
    """[0.1] [0.3]"""
    assert facts == {"text": "Late.", "billed_calls": 1}


def test_connection_cut_before_the_answer(facts: Facts) -> None:
    """[0.1]"""
    assert facts == {"text": "Kept.", "billed_calls": 1}


def test_connection_cut_before_the_submission_is_confirmed(facts: Facts) -> None:
    """[0.1]"""
    assert facts == {"text": "Kept.", "billed_calls": 1}


def test_bad_gateway_on_the_way(facts: Facts) -> None:
    """[0.1]"""
    assert facts == {"text": "Kept.", "billed_calls": 1}


# --- several turns, tools, structured output, and what went in


def test_multi_turn(facts: Facts) -> None:
    thought = ["reasoning", ""]  # encrypted
    first, second = [["user", "1?"], thought, ["assistant", "One."]], [["user", "2?"], thought, ["assistant", "Two."]]
    assert facts == {
        "text": "Three.",
        "previous": True,
        "said": [*first, *second, ["user", "3?"]],
        "instructions": None,
        "sent_previous": False,
    }


def test_multi_turn_by_hand(facts: Facts) -> None:
    assert facts == {"text": "Two.", "said": [["user", "1?"], ["assistant", "One."], ["user", "2?"]]}


def test_follow_up_to_a_running_response(facts: Facts) -> None:
    assert facts == {"text": "After.", "said": ["", "Slow.", "And?"]}  # the first is encrypted reasoning


def test_follow_up_to_nothing(facts: Facts) -> None:
    nothing = refused(400, "previous_response_not_found", "previous_response_id")
    failed = refused(400, "previous_response_failed", "previous_response_id")
    assert facts == {"unknown": nothing, "deleted": nothing, "failed": failed, "cancelled": failed}


def test_not_stored(facts: Facts) -> None:
    assert facts == {"store": False, "status": "completed"}


def test_tool_round_trip(facts: Facts) -> None:
    assert facts == {
        "name": "weather",
        "arguments": {"city": "Oslo"},
        "output_text": "",
        "text": "Cold.",
        "sent": ["message", "function_call", "function_call_output"],
        "same_call": True,
    }


def test_tool_round_trip_by_hand(facts: Facts) -> None:
    assert facts == {"text": "Cold."}


def test_structured_output(facts: Facts) -> None:
    assert facts == {"city": {"name": "Oslo", "people": 700000, "rivers": ["Akerselva"]}, "format": "json_schema"}


def test_input_items(facts: Facts) -> None:
    assert facts == {
        "forwards": ["0", "1", "2", "3", "4"],
        "backwards": ["4", "3", "2", "1", "0"],
        "after": ["2", "3", "4"],
        "page": [2, True],
        "kinds": [["message", "user"], ["message", "user"]],
        "ids": 2,
    }


def test_input_items_of_a_text(facts: Facts) -> None:
    assert facts == {"items": [["message", "user", ["input_text"]]], "text": True}


def test_input_tokens(facts: Facts) -> None:
    assert facts == {"object": "response.input_tokens", "some": True, "more": True}


def test_input_tokens_of_everything(facts: Facts) -> None:
    assert facts == {"with_the_conversation": True}


# --- streams


def test_stream(facts: Facts) -> None:
    """[0.7] [0.8] [0.10]"""
    assert facts == {
        "types": STREAM_OF_A_TEXT,
        "gapless": True,
        "text": "Word by word.",
        "end": ["response.completed", "completed"],
        "final_text": "Word by word.",
        "one_id": 1,
        "usage": True,
        "billed_calls": 1,
    }


def test_stream_in_the_background_and_resume(facts: Facts) -> None:
    """[0.9]"""
    assert facts == {
        "types": STREAM_OF_A_TEXT,
        "gapless": True,
        "text": ALPHABET,
        "end": ["response.completed", "completed"],
        "resumed_at": 1,
        "background": True,
        "billed_calls": 1,
    }


def test_stream_replayed_after_the_end(facts: Facts) -> None:
    """[0.9]"""
    assert facts == {
        "types": STREAM_OF_A_TEXT,
        "gapless": True,
        "text": ALPHABET,
        "end": ["response.completed", "completed"],
        "same": True,
        "half": True,
    }


def test_stream_of_a_response_that_was_not_streamed(facts: Facts) -> None:
    assert facts == {
        "types": STREAM_OF_A_TEXT,
        "gapless": True,
        "text": "Polled.",
        "end": ["response.completed", "completed"],
    }


def test_stream_helper(facts: Facts) -> None:
    """[0.10]"""
    assert facts == {
        "first": "response.created",
        "last": "response.completed",
        "text": "With help.",
        "status": "completed",
    }


def test_stream_helper_until_done(facts: Facts) -> None:
    """[0.10]"""
    assert facts == {"types": REASONING_AND_TEXT * 3, "text": "Part 1. Part 2. Part 3. "}


def test_stream_helper_by_id(facts: Facts) -> None:
    """[0.9]"""
    assert facts == {"first": 4, "text": ALPHABET, "same_id": True}


def test_stream_helper_structured(facts: Facts) -> None:
    assert facts == {"answer": 42}


def test_stream_of_a_tool_call(facts: Facts) -> None:
    assert facts == {"arguments": {"city": "Oslo"}, "delta": True, "done": True}


def test_stream_that_fails(facts: Facts) -> None:
    """[0.8] Under a code that clients take for final: decision 0013."""
    assert facts == {
        "types": [*BEGUN, "response.failed"],
        "gapless": True,
        "text": "",
        "end": ["response.failed", "failed"],
        "code": "invalid_prompt",
    }


def test_stream_that_is_cut(facts: Facts) -> None:
    """[0.8]"""
    assert facts == {
        "types": [*STREAM_OF_A_TEXT[:-1], "response.incomplete"],
        "gapless": True,
        "text": "Once",
        "end": ["response.incomplete", "incomplete"],
        "reason": "max_output_tokens",
    }


def test_stream_that_is_cancelled(facts: Facts) -> None:
    """[0.7] [0.8] No SDK knows an event of this name, so a known one says it."""
    assert facts == {
        "types": [*BEGUN, "response.failed"],
        "gapless": True,
        "text": "",
        "end": ["response.failed", "cancelled"],
    }


def test_stream_that_is_deleted(facts: Facts) -> None:
    """[0.6] Its error event raises in every SDK: a stream that only ends would look like an answer."""
    assert facts == {"class": "APIError", "code": "response_not_found", "message": True}


def test_stream_of_unknown_items(facts: Facts) -> None:
    """[0.7]"""
    assert facts["text"] == "New."
    assert facts["gapless"]


def test_final_response_of_a_failed_stream(facts: Facts, sdk: Sdk) -> None:
    """[0.10] No server can help it: Python's helper takes only completed for an end."""
    if sdk.language == "node":
        assert facts == {"failed": "failed", "incomplete": "incomplete"}
    else:
        assert facts == {"failed": "RuntimeError", "incomplete": "RuntimeError"}


def test_refused_before_it_streams(facts: Facts) -> None:
    assert facts == refused(400, "integer_below_min_value", "max_output_tokens")


# --- webhooks


def test_webhook_of_every_end(facts: Facts, sdk: Sdk, runs: dict[str, Run]) -> None:
    """And the reference implementation of Standard Webhooks, where they arrived, said the same."""
    kinds = sorted(f"response.{end}" for end in ("completed", "incomplete", "failed", "cancelled"))
    assert facts == {
        "reported": {kind.removeprefix("response."): ["event", kind, True] for kind in kinds},
        "ids": [True] * 4,
        "of now": kinds,
        "a tampered byte": ["InvalidWebhookSignatureError"],
        "another secret": ["InvalidWebhookSignatureError"],
        "of six minutes ago": ["InvalidWebhookSignatureError"],
    }
    assert runs[sdk.name].verified == [True] * 4


def test_webhook_endpoints(facts: Facts) -> None:
    """The SDKs before 3.51 verify webhooks and cannot manage them: `SDKS` says so."""
    kinds = ["response.completed", "response.incomplete", "response.failed", "response.cancelled"]
    assert facts == {
        "found": ["mine", True, kinds],
        "secret_shown": [True, False, False, True],
        "pages": True,
        "after": True,
        "changed": ["yours", False, kinds[1:3], True],
        "tested": [True, "response.failed", 200, True],
        "first": ["response.failed", "InvalidWebhookSignatureError"],
        "second": ["response.cancelled", "response.cancelled"],
        "event_types": ["response.completed", "response.failed", "response.cancelled", "response.incomplete"],
        "gone": [True, True, refused(404, None, "webhook_endpoint_id")],
        "private": refused(400, "invalid_value", "url"),
    }
