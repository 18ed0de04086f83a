"""Keep large tables quick: room for updates in place, earlier vacuums, and indexes that hold no more than is asked for.

The indexes are built while the tables are locked against writes, in the one transaction of every migration. Built
concurrently each would have to commit by itself, and an upgrade that fails halfway would leave invalid ones behind.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

LARGE_AND_CHANGING = {
    "autovacuum_vacuum_scale_factor": "0.02",
    "autovacuum_vacuum_insert_scale_factor": "0.02",
    "autovacuum_analyze_scale_factor": "0.01",
}
STORAGE = {
    "api_keys": {"fillfactor": "50"},
    "jobs": {"fillfactor": "85", **LARGE_AND_CHANGING},
    "attempts": LARGE_AND_CHANGING,
}
ADDED_UP = [
    "model",
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cost_microusd",
]
WITHOUT_COST = "cost_microusd IS NULL AND reconciled_at IS NULL"
DOUBTFUL = f"billed IN ('unknown', 'likely') AND {WITHOUT_COST}"
UNFETCHED = f"outcome IN ('lost', 'released') AND provider_response_id IS NOT NULL AND {WITHOUT_COST}"


def upgrade() -> None:
    if _is_postgresql():
        for table, options in STORAGE.items():
            op.execute(f"ALTER TABLE {table} SET ({', '.join(f'{name} = {value}' for name, value in options.items())})")
        op.drop_index("ix_attempts_usage", "attempts")
        op.create_index(
            "ix_attempts_usage", "attempts", ["api_key_id", "started_at"], unique=False, postgresql_include=ADDED_UP
        )
    _index_again("ix_attempts_doubtful", DOUBTFUL)
    _index("ix_attempts_unfetched", UNFETCHED)


def downgrade() -> None:
    op.drop_index("ix_attempts_unfetched", "attempts")
    _index_again("ix_attempts_doubtful", WITHOUT_COST)
    if _is_postgresql():
        op.drop_index("ix_attempts_usage", "attempts")
        op.create_index("ix_attempts_usage", "attempts", ["api_key_id", "started_at"], unique=False)
        for table, options in STORAGE.items():
            op.execute(f"ALTER TABLE {table} RESET ({', '.join(options)})")


def _is_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _index_again(name: str, condition: str) -> None:
    op.drop_index(name, "attempts")
    _index(name, condition)


def _index(name: str, condition: str) -> None:
    where: dict[str, Any] = {f"{dialect}_where": sa.text(condition) for dialect in ("postgresql", "sqlite")}
    op.create_index(name, "attempts", ["ended_at"], unique=False, **where)
