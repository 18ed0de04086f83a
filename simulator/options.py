"""Every setting of the simulator: at start by flags, at run time by `PUT /_script`."""

from collections.abc import Mapping
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from simulator.recorded_answers import RecordedAnswers, read_answers
from simulator.rules import Rules
from simulator.script import parse_script

CHAOS_MIX: Final[Mapping[str, float]] = {
    "429": 4,
    "429 retry-after=1": 2,
    "500": 3,
    "503": 3,
    "502": 1,
    "504": 1,
    "524": 1,
    "529": 1,
    "408": 1,
    "drop": 2,
    "close": 1,
    "drop-after-headers": 1,
    "truncated": 2,
    "half-open max=2": 1,
    "stall max=2": 1,
    "not-json": 1,
    "no-body": 1,
    "garbage": 1,
    "stream-end": 1,
    "stream-error": 1,
    "failed code=server_error": 1,
}
"""Faults after which another attempt can succeed, weighted roughly by how often they occur."""


class Options(BaseModel):
    """The settings. Times are in seconds, amounts in US dollars, as in the provider's API."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: Rules = Field(
        "lenient",
        description="valid request bodies: lenient (any shape that OpenAI accepts), strict (AI/ML API's schema)"
        " or openai (lenient, with OpenAI's rules on ids, reasoning, calls and outputs)",
    )
    script: str = Field("full", description="script of calls that have no directive")
    answers: str = Field("", description="file of more recorded answers, in the form of simulator/odd_answers.json")
    delay: float = Field(2.0, ge=0, description="seconds until an answer, unless its step has delay=")
    jitter: float = Field(0.2, ge=0, le=1, description="share of --delay by which it varies, both ways")
    seed: int = Field(0, description="the same seed and call ids give the same chaos and jitter")
    chaos: float = Field(0.0, ge=0, le=1, description="share of calls without a directive that get a fault")
    chaos_by: Literal["call", "prompt"] = Field(
        "call", description="basis of chance: the client request id, or prompt and attempt number"
    )
    chaos_mix: Mapping[str, float] = Field(CHAOS_MIX, description="weights of the faults: step text to number")
    cost: Literal["both", "headers", "body", "chunk", "none"] = Field(
        "both", description="parts of answers that carry their cost (chunk: a last SSE chunk of its own)"
    )
    models: tuple[str, ...] = Field(("openai/o3-pro",), description="models that answer")
    withdrawn_models: tuple[str, ...] = Field((), description="models that no longer answer, but give 404")
    bad_keys: tuple[str, ...] = Field(("bad-key",), description="API keys that get 401")
    balance: float | None = Field(None, description="account balance; calls get 403 once it is spent")
    bill_disconnects: bool = Field(default=False, description="bill calls whose client disconnected before the answer")
    native_background: bool = Field(default=False, description="honour background: true, with its routes")
    poll_after_ms: int = Field(500, ge=0, description="openai-poll-after-ms hint of the background routes")
    background_retention: float = Field(600.0, ge=0, description="seconds that a background answer is kept")
    max_concurrency: int | None = Field(None, ge=0, description="calls in flight above which 429 is given")
    logs_lag: float = Field(0.0, ge=0, description="seconds until a finished call shows in /v2/logs")
    logs_missing: float = Field(0.0, ge=0, le=1, description="share of calls that /v2/logs never shows")
    logs_per_minute: int = Field(200, ge=0, description="requests to /v2/logs per key and 60 s before 429")
    ledger_limit: int = Field(100_000, ge=1, description="finished calls kept in /_calls")
    bodies_limit: int = Field(1_000, ge=0, description="raw request bodies kept in /_calls?bodies=true")
    max_body_bytes: int = Field(33_554_432, ge=1, description="larger requests get 413; fixed at start")

    _recorded_answers: RecordedAnswers = PrivateAttr()

    @field_validator("script")
    @classmethod
    def _script_parses(cls, script: str) -> str:
        parse_script(script)
        return script

    @field_validator("chaos_mix")
    @classmethod
    def _mix_parses(cls, mix: Mapping[str, float]) -> Mapping[str, float]:
        for step in mix:
            parse_script(step)
        if not mix or min(mix.values()) < 0 or sum(mix.values()) <= 0:
            raise ValueError("weights must not be negative, and one must be above zero")
        return mix

    @model_validator(mode="after")
    def _answers_are_there(self) -> Self:
        self._recorded_answers = read_answers(self.answers)
        self._recorded_answers.check(parse_script(self.script))
        return self

    @property
    def recorded_answers(self) -> RecordedAnswers:
        """Cases that a script may name: the packaged ones and those of `answers`."""
        return self._recorded_answers

    def changed(self, changes: Any) -> "Options":
        """Return these options with `changes`, an object of option names and values.

        Raises:
            TypeError: `changes` is not an object.
            pydantic.ValidationError: a name or value is wrong.
        """
        if not isinstance(changes, Mapping):
            raise TypeError("options must be an object")
        return Options.model_validate({**self.model_dump(), **changes})
