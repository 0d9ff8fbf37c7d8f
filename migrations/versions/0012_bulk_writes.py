"""bulk writes: no look at a parent for each row

Revision ID: 0012
Revises: 0011
"""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None
# Each is written in bulk, by a statement that has its parent in hand: it inserts or locks the item in the same one,
# and classifiers and bundles are never deleted. Nor does every batch lock the row of its classifier, and its bundle's.
_KEYS = (
    ("items", "classifier_id", "classifiers"),
    ("texts", "item_id", "items"),
    ("scores", "item_id", "items"),
    ("scores", "bundle_id", "bundles"),
    ("outcomes", "item_id", "items"),
    ("outcomes", "classifier_id", "classifiers"),
    ("outcomes", "bundle_id", "bundles"),
)


def upgrade() -> None:
    for table, column, parent in _KEYS:
        op.drop_constraint(op.f(f"fk_{table}_{column}_{parent}"), table, type_="foreignkey")


def downgrade() -> None:
    for table, column, parent in reversed(_KEYS):
        op.create_foreign_key(op.f(f"fk_{table}_{column}_{parent}"), table, parent, [column], ["id"])
