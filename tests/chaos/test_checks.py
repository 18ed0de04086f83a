"""Each check of a chaos run, shown a world in which its promise was broken."""

from collections.abc import Callable

import pytest

from jobs.settings import Transport
from tests.chaos.__main__ import judge
from tests.chaos.clients import Seen, Wait
from tests.chaos.locks import Lock
from tests.chaos.plan import PROMPT_MARK
from tests.chaos.proxy import Passage
from tests.chaos.record import Record, Sight
from tests.chaos.refill import Refill
from tests.chaos.sound_run import JOB, PID, at, attempt, call, delivered, ready, replace, sound, unix, waits
from tests.chaos.world import Freeze


def lose_the_row(record: Record, seen: Seen) -> None:
    del record.jobs[JOB]


def make_two_under_one_key(record: Record, seen: Seen) -> None:
    record.jobs["resp_2"] = {**record.jobs[JOB], "id": "resp_2", "attempt": 0, "cost_microusd": None}
    seen.acknowledged["resp_2"] = seen.acknowledged[JOB]


def never_end(record: Record, seen: Seen) -> None:
    seen.open_at_the_end.append(JOB)


def end_late(record: Record, seen: Seen) -> None:
    replace(record, deadline_at=at(-60))


def change_the_end(record: Record, seen: Seen) -> None:
    seen.ends[JOB] = ("failed", 0)


def end_twice(record: Record, seen: Seen) -> None:
    record.lines.append(f'worker {{"event": "fail", "job_id": "{JOB}", "status": "failed"}}')


def throw_an_answer_away(record: Record, seen: Seen) -> None:
    record.passages[f"{JOB}:1"] = delivered(0.1, 0.9)


def throw_an_answer_away_long_before_the_kill(record: Record, seen: Seen) -> None:
    throw_an_answer_away(record, seen)
    record.deaths[PID] = unix(10)


def buy_an_answer_again(record: Record, seen: Seen) -> None:
    record.attempts[JOB][0] = attempt(1, 0, 1)
    replace(record, cost_microusd=1000)


def send_a_call_twice(record: Record, seen: Seen) -> None:
    record.calls[JOB].append(call(2, 2.2, billed=False))


def fail_too_often(record: Record, seen: Seen) -> None:
    replace(record, max_attempts=0)


def call_again_what_wants_one_call(record: Record, seen: Seen) -> None:
    replace(record, on_unknown_outcome="fail")


def drop_an_answer_that_came(record: Record, seen: Seen) -> None:
    replace(record, status="failed", completed_at=at(60))
    seen.ends[JOB] = ("failed", 0)


def call_without_a_row(record: Record, seen: Seen) -> None:
    record.calls[JOB].append(call(3, 5, billed=False))


def call_for_no_job(record: Record, seen: Seen) -> None:
    record.calls["resp_9"] = [call(1, 1, client_request_id="resp_9:1", billed=False)]


def call_before_the_row(record: Record, seen: Seen) -> None:
    record.calls[JOB][1] = call(2, 1.9)


def leave_an_attempt_open(record: Record, seen: Seen) -> None:
    record.attempts[JOB][0] = {**record.attempts[JOB][0], "outcome": None}


def count_a_cost_twice(record: Record, seen: Seen) -> None:
    replace(record, cost_microusd=1000)


def book_another_price(record: Record, seen: Seen) -> None:
    record.attempts[JOB][1] = attempt(2, 2, 4, cost_microusd=700)
    replace(record, cost_microusd=700)


def forget_usage(record: Record, seen: Seen) -> None:
    record.sights[0].calls = 1


def heed_a_needless_message(record: Record, seen: Seen) -> None:
    seen.needless_messages.append((JOB, unix(1.5)))
    replace(record, completed_at=at(0.5))


def call_twice_at_a_time(record: Record, seen: Seen) -> None:
    record.attempts[JOB][0] = attempt(1, 0, 2.5, "failed")


def refill_slowly(record: Record, seen: Seen) -> None:
    record.refill = Refill(40, 2.5)


def answer_a_stranger(record: Record, seen: Seen) -> None:
    seen.foreign_leaks.append(f"{JOB} answered get of another's key 200")


def list_anothers(record: Record, seen: Seen) -> None:
    record.sights.append(Sight("key_2", {JOB}, 0))


def obey_a_stranger(record: Record, seen: Seen) -> None:
    seen.obeyed.append("celery@host answered pool_shrink with {'ok': 'pool will shrink'}")


def leave_an_answer_in_a_file(record: Record, seen: Seen) -> None:
    record.left_files.append(f"{JOB}-1.json")


def say_nothing_of_a_wait(record: Record, seen: Seen) -> None:
    seen.reported.append(ready(-1))


def give_no_reason_for_a_wait(record: Record, seen: Seen) -> None:
    seen.reported.append(ready(-1, waiting=waits(39, "")))


def name_another_that_waits_less(record: Record, seen: Seen) -> None:
    seen.reported.append(ready(-1, waiting=waits(31)))


def never_answer(record: Record, seen: Seen) -> None:
    seen.overdue[JOB, unix(-40)] = Wait(unix(-10), unix(30))


def log_a_prompt(record: Record, seen: Seen) -> None:
    record.lines.append(f"worker {PROMPT_MARK}")


def put_a_prompt_into_the_broker(record: Record, seen: Seen) -> None:
    seen.broker_leaks.append(PROMPT_MARK)


def put_a_prompt_into_an_error(record: Record, seen: Seen) -> None:
    record.attempts[JOB][0] = attempt(1, 0, 1, "failed", error_message=f"about {PROMPT_MARK}")


BREACHES: list[tuple[int, Callable[[Record, Seen], None]]] = [
    (1, lose_the_row),
    (1, make_two_under_one_key),
    (2, never_end),
    (2, end_late),
    (3, change_the_end),
    (3, end_twice),
    (3, heed_a_needless_message),
    (4, throw_an_answer_away),
    (4, throw_an_answer_away_long_before_the_kill),
    (4, buy_an_answer_again),
    (4, send_a_call_twice),
    (4, fail_too_often),
    (4, call_again_what_wants_one_call),
    (4, drop_an_answer_that_came),
    (4, leave_an_answer_in_a_file),
    (5, call_without_a_row),
    (5, call_for_no_job),
    (5, call_before_the_row),
    (5, leave_an_attempt_open),
    (6, count_a_cost_twice),
    (6, book_another_price),
    (6, forget_usage),
    (7, call_twice_at_a_time),
    (7, refill_slowly),
    (7, obey_a_stranger),
    (8, answer_a_stranger),
    (8, list_anothers),
    (9, log_a_prompt),
    (9, put_a_prompt_into_the_broker),
    (9, put_a_prompt_into_an_error),
    (10, say_nothing_of_a_wait),
    (10, give_no_reason_for_a_wait),
    (10, name_another_that_waits_less),
    (10, never_answer),
]


def test_a_sound_run_reports_the_number_of_checks_of_each_promise() -> None:
    status, text = judge(*sound(), 7)

    assert status == 0
    assert text.startswith("seed 7, transport plain: 1 jobs acknowledged, 1 rows")
    assert "promise 4, no answer thrown away, none bought again: " in text
    assert "paid calls beyond one per job: 1" in text
    assert "promise 10, no due job waits over 30 s without its reason: 2 checks" in text
    assert text.endswith("no violation")


@pytest.mark.parametrize(("promise", "breach"), BREACHES, ids=lambda each: getattr(each, "__name__", None))
def test_a_broken_promise_ends_the_run_with_status_1(promise: int, breach: Callable[[Record, Seen], None]) -> None:
    record, seen = sound()
    breach(record, seen)

    status, text = judge(record, seen, 7)

    assert status == 1
    assert text.startswith(f"seed 7: promise {promise} (")


def test_a_violation_comes_with_all_that_is_known_of_the_job() -> None:
    record, seen = sound()
    throw_an_answer_away(record, seen)

    _status, text = judge(record, seen, 7)

    assert f"{JOB}:1 was answered in full to a worker that lived, and is failed (interrupted)" in text
    for start in (
        "plan: ",
        "job: {",
        "attempt: {",
        "call: {",
        "connection of 1: passed_at",
        "worker: {",
        "log: worker",
    ):
        assert f"\n{start}" in text
    assert text.count("\nfault: ") == text.count(" cut provider") == 1


@pytest.mark.parametrize(
    ("away", "status"),
    [([], 1), ([(-30, -20)], 1), ([(-18, -12), (-15, -8)], 0), ([(-18, -12), (-17, -13)], 1)],
    ids=["never", "before the deadline", "in two spans", "in one within another"],
)
def test_while_the_database_is_away_no_job_can_be_ended(away: list[tuple[float, float]], status: int) -> None:
    record, seen = sound()
    record.database_away = [(unix(begun), unix(ended)) for begun, ended in away]
    replace(record, deadline_at=at(-23))

    assert judge(record, seen, 7)[0] == status


@pytest.mark.parametrize(
    ("died", "hurt", "status"),
    [(1.5, [], 0), (8, [], 1), (8, [(0.5, 6.5)], 0), (12, [(0.5, 11)], 1)],
    ids=["at once", "long after", "while the database was away", "when it stood in a file"],
)
def test_only_a_kill_within_the_time_of_recording_excuses_a_lost_answer(
    died: float, hurt: list[tuple[float, float]], status: int
) -> None:
    record, seen = sound()
    throw_an_answer_away(record, seen)
    record.deaths[PID] = unix(died)
    record.database_hurt = [(unix(begun), unix(ended)) for begun, ended in hurt]

    assert judge(record, seen, 7)[0] == status


@pytest.mark.parametrize(("died", "status"), [(8, 0), (12, 1)], ids=["before it was kept", "when it stood in a file"])
def test_a_lock_excuses_a_lost_answer_until_it_is_kept_in_a_file(died: float, status: int) -> None:
    record, seen = sound()
    throw_an_answer_away(record, seen)
    record.deaths[PID] = unix(died)
    record.locks = [Lock("jobs", frozenset({"resp_2"}), unix(0.5), unix(11))]

    assert judge(record, seen, 7)[0] == status


@pytest.mark.parametrize(("pid", "status"), [(PID, 0), (PID + 1, 1)], ids=["its worker", "another"])
def test_a_frozen_worker_has_no_time_to_record(pid: int, status: int) -> None:
    record, seen = sound()
    throw_an_answer_away(record, seen)
    record.deaths[PID] = unix(12)
    record.freezes = [Freeze(pid, unix(0.5), unix(11))]

    assert judge(record, seen, 7)[0] == status


def test_what_a_silent_line_swallowed_is_not_thrown_away() -> None:
    record, seen = sound()
    record.passages[f"{JOB}:1"] = Passage(b"", unix(0.5), unix(0.9), silent_at=unix(0.6), lost_at=unix(0.8))

    assert judge(record, seen, 7)[0] == 0


@pytest.mark.parametrize(("held", "status"), [(JOB, 0), ("resp_2", 1)], ids=["its row", "another's"])
def test_only_a_lock_of_its_own_row_excuses_an_end_without_the_answer_that_came(held: str, status: int) -> None:
    record, seen = sound()
    replace(record, status="cancelled", completed_at=at(12))
    seen.ends[JOB] = ("cancelled", 0)
    record.lines = [f'worker {{"event": "cancel", "job_id": "{JOB}", "status": "cancelled"}}']
    record.locks = [Lock("jobs", frozenset({held}), unix(3.5), unix(11.5))]

    assert judge(record, seen, 7)[0] == status


@pytest.mark.parametrize(
    ("ended", "hurt", "status"),
    [(5, [], 0), (8, [], 1), (8, [(5, 9)], 0), (60, [(5, 9)], 1)],
    ids=["at once", "later", "while the database was away", "long after that"],
)
def test_only_the_time_of_recording_excuses_an_end_without_the_answer_that_came(
    ended: float, hurt: list[tuple[float, float]], status: int
) -> None:
    record, seen = sound()
    replace(record, status="cancelled", completed_at=at(ended))
    seen.ends[JOB] = ("cancelled", 0)
    record.lines = [f'worker {{"event": "cancel", "job_id": "{JOB}", "status": "cancelled"}}']
    record.database_hurt = [(unix(begun), unix(until)) for begun, until in hurt]

    assert judge(record, seen, 7)[0] == status


def test_a_call_that_the_provider_said_had_failed_may_be_repeated_though_it_was_paid() -> None:
    record, seen = sound()
    replace(record, on_unknown_outcome="fail")
    record.attempts[JOB][0] = attempt(1, 0, 1, "failed", error_kind="answer_failed")
    record.calls[JOB][0] = call(1, 0.1, outcome="dropped")

    assert judge(record, seen, 7)[0] == 0


def test_a_response_whose_id_was_kept_is_not_billed_again() -> None:
    record, seen = sound()
    record.transport = Transport.BACKGROUND
    record.attempts[JOB][0] = attempt(1, 0, 1, "lost", provider_response_id="made_1", error_kind="lost")

    status, text = judge(record, seen, 7)

    assert status == 1
    assert "made_1 was bought, its id kept, and it was given up as lost (lost)" in text
