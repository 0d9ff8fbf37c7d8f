"""what is said of items lies in partitions by the month of the item; what retention leaves behind

Revision ID: 0015
Revises: 0014

Existing rows stay where they are: their tables become the partitions of all that came before. See docs/scale.md for
what is locked meanwhile, and what can be prepared before.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None
_VIEWS = ("live_quality", "live_quality_by_label", "people_quality")
# Table: its unique constraints and indexes, as (kind, name, columns, condition). Each row names its item.
_TABLES = {
    "texts": (("pk", "pk_texts", "item_id", ""),),
    "scores": (("pk", "pk_scores", "id, item_id", ""), ("ix", "ix_scores_item_id", "item_id", "")),
    "outcomes": (
        ("pk", "pk_outcomes", "id, item_id", ""),
        ("ix", "ix_outcomes_item_id", "item_id", ""),
        ("ix", "ix_outcomes_cursor", "classifier_id, xact, id", ""),
    ),
    "calls": (
        ("pk", "pk_calls", "id, item_id", ""),
        ("ix", "ix_calls_ask_id", "ask_id", ""),
        ("ix", "ix_calls_classifier_id", "classifier_id", ""),
        ("ix", "ix_calls_sent", "created_at", "state = 'sent'"),
        ("ix", "ix_calls_in_flight", "classifier_id, reuse_key", "state = 'sent'"),
        ("uq", "uq_calls_batch", "batch_id, ask_id, item_id", "batch_id IS NOT NULL"),
    ),
    "answers": (
        ("pk", "pk_answers", "id, item_id", ""),
        ("uc", "uq_answers_ask_id_item_id", "ask_id, item_id", ""),
        ("ix", "ix_answers_item_id", "item_id", ""),
        ("ix", "ix_answers_learning", "classifier_id, labels_hash, role, id", ""),
        ("ix", "ix_answers_reuse", "classifier_id, reuse_key", "reused_from IS NULL"),
    ),
}
# A partition that goes must not lock what it speaks of; `doctor --deep` looks at what these looked at.
_KEYS = (
    ("calls", "ask_id", "asks"),
    ("calls", "classifier_id", "classifiers"),
    ("calls", "budget_day_id", "budget_days"),
    ("calls", "batch_id", "batches"),
    ("answers", "ask_id", "asks"),
    ("answers", "item_id", "items"),
    ("answers", "classifier_id", "classifiers"),
)
_KEYS_TO_THEM = (
    ("answers", "call_id", "calls"),
    ("answers", "reused_from", "answers"),
    ("sampled_items", "outcome_id", "outcomes"),
)
_THIS_MONTH = """
    SELECT (12 * (extract(year FROM now() AT TIME ZONE 'UTC')::int - 2020)
            + extract(month FROM now() AT TIME ZONE 'UTC')::int - 1) * 100000000000
"""
# No deadlock: it gives all locks back well before PostgreSQL would look for one.
_LOCK = """
DO $$
BEGIN
    FOR try IN 1..120 LOOP
        BEGIN
            SET LOCAL lock_timeout = '500ms';
            LOCK TABLE texts, scores, outcomes, calls, answers, sampled_items IN ACCESS EXCLUSIVE MODE;
            SET LOCAL lock_timeout = 0;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.25);
        END;
    END LOOP;
    RAISE EXCEPTION 'other transactions did not let go of the tables within a minute: end them, and try again';
END $$
"""
# Who reads outcomes names their items now. As datashunt/store/roles.sql, which need not be run again for it.
_PRODUCER = """
DO $$
BEGIN
    IF to_regrole('datashunt_producer') IS NOT NULL THEN
        GRANT SELECT (item_id) ON answers, calls TO datashunt_producer;
    END IF;
    IF to_regrole('datashunt_worker') IS NOT NULL THEN
        GRANT EXECUTE ON FUNCTION make_partitions(integer) TO datashunt_worker;
    END IF;
END $$
"""
_MAKE = """
CREATE FUNCTION make_partitions(ahead integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp SET lock_timeout = '200ms' AS $$
-- Items of a month are numbered from a number of that month's on, so that an item's number tells its partition.
DECLARE
    a_month constant bigint := 100000000000;
    numbers text := pg_get_serial_sequence('items', 'id');
    this_month integer := 12 * (extract(year FROM now() AT TIME ZONE 'UTC')::int - 2020)
                          + extract(month FROM now() AT TIME ZONE 'UTC')::int - 1;
    reached bigint;
    parent text;
    part text;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('datashunt make_partitions', 0));
    reached := coalesce(pg_sequence_last_value(numbers::regclass), 0);
    FOR month IN this_month..greatest(this_month, (reached / a_month)::int) + ahead LOOP
        FOREACH parent IN ARRAY ARRAY['texts', 'scores', 'outcomes', 'calls', 'answers'] LOOP
            part := parent || to_char(make_date(2020 + month / 12, month % 12 + 1, 1), '_YYYY_MM');
            CONTINUE WHEN to_regclass(part) IS NOT NULL;
            EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent || '_default');
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES'
                           ' INCLUDING STORAGE INCLUDING COMPRESSION)', part, parent);
            -- What came while there was no such partition.
            EXECUTE format('WITH moved AS (DELETE FROM %I WHERE item_id >= %s AND item_id < %s RETURNING *)'
                           ' INSERT INTO %I SELECT * FROM moved',
                           parent || '_default', month * a_month, (month + 1) * a_month, part);
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
                           parent, part, month * a_month, (month + 1) * a_month);
            made := made + 1;
        END LOOP;
    END LOOP;
    IF reached < this_month * a_month THEN
        PERFORM setval(numbers::regclass, this_month * a_month);
    END IF;
    RETURN made;
END $$
"""


def upgrade() -> None:
    schema = _rows("SELECT quote_ident(current_schema)")[0]
    op.execute(_LOCK)
    views = _views()
    for table, column, parent in (*_KEYS, *_KEYS_TO_THEM):
        op.drop_constraint(op.f(f"fk_{table}_{column}_{parent}"), table, type_="foreignkey")
    for table, indexes in _TABLES.items():
        grants = _grants(table)
        _part(table, indexes)
        _run(grants)
    op.execute(_MAKE.format(schema=schema))
    op.execute("REVOKE EXECUTE ON FUNCTION make_partitions(integer) FROM PUBLIC")
    op.execute("SELECT make_partitions(2)")
    _run(views)
    op.execute(_PRODUCER)
    _tables_of_retention()


def _part(table: str, indexes: tuple[tuple[str, str, str, str], ...]) -> None:
    """Put a partitioned table in the place of a plain one, which becomes its first partition."""
    before = f"{table}_before"
    numbered = table != "texts"
    last = _rows(f"SELECT last_value FROM {table}_id_seq")[0] if numbered else None  # noqa: S608 - our own words
    if numbered:
        op.execute(f"ALTER TABLE {table} ALTER COLUMN id DROP IDENTITY")
    op.execute(f"ALTER TABLE {table} RENAME TO {before}")
    _rename_indexes(before)
    op.execute(
        f"CREATE TABLE {table} (LIKE {before} INCLUDING DEFAULTS INCLUDING CONSTRAINTS) PARTITION BY RANGE (item_id)"
    )
    op.execute(f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {before}")
    if numbered:
        op.execute(f"ALTER TABLE {table} ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY")
        op.execute(f"SELECT setval('{table}_id_seq', {last})")
    for kind, name, columns, condition in indexes:
        _index(kind, name, table, columns, condition)
    for kind, name, columns, _ in indexes:
        _unique_before(kind, name, before, columns)
    op.execute(f"CREATE TABLE {table}_default PARTITION OF {table} DEFAULT")
    op.execute(f"ALTER TABLE {table} ATTACH PARTITION {before} FOR VALUES FROM (MINVALUE) TO ({_rows(_THIS_MONTH)[0]})")
    op.execute(f"ALTER TABLE {before} DROP CONSTRAINT IF EXISTS {before}")


def _index(kind: str, name: str, table: str, columns: str, condition: str) -> None:
    where = f" WHERE {condition}" if condition else ""
    if kind in ("pk", "uc"):
        what = "PRIMARY KEY" if kind == "pk" else "UNIQUE"
        op.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {what} ({columns})")
    else:
        unique = "UNIQUE " if kind == "uq" else ""
        op.execute(f"CREATE {unique}INDEX {name} ON {table} ({columns}){where}")


def _unique_before(kind: str, name: str, before: str, columns: str) -> None:
    """The key of the old table as the new one has it, from an index that may have been prepared."""
    prepared = f"{name}_item"
    if kind == "pk" and columns != "item_id":
        op.execute(f"CREATE UNIQUE INDEX IF NOT EXISTS {prepared} ON {before} (id, item_id)")
        op.execute(f"ALTER TABLE {before} DROP CONSTRAINT {name}_before")
        op.execute(f"ALTER TABLE {before} ADD CONSTRAINT {name}_before PRIMARY KEY USING INDEX {prepared}")
    elif kind == "uc":
        op.execute(f"CREATE UNIQUE INDEX IF NOT EXISTS {prepared} ON {before} ({columns})")
        op.execute(f"ALTER TABLE {before} DROP CONSTRAINT uq_answers_ask_id_before")
        op.execute(f"ALTER TABLE {before} ADD CONSTRAINT {name}_before UNIQUE USING INDEX {prepared}")
    elif kind == "uq":
        op.execute(f"DROP INDEX {name}_before")


def _rename_indexes(table: str) -> None:
    """All but those that were prepared give their names to those of the new table."""
    names = _rows(
        "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"  # noqa: S608 - our own words
        f" WHERE i.indrelid = '{table}'::regclass AND c.relname NOT LIKE '%_item'"
    )
    for name in names:
        op.execute(f"ALTER INDEX {name} RENAME TO {name}_before")


def _views() -> list[str]:
    """Take the views away that read these tables; returns what brings them back, with whom they were granted to."""
    made = []
    for view in _VIEWS:
        body = _rows(f"SELECT pg_get_viewdef('{view}'::regclass)")[0]
        made += [f"CREATE VIEW {view} AS {body}", *_grants(view)]
    for view in _VIEWS:
        op.execute(f"DROP VIEW {view}")
    return made


def _grants(table: str) -> list[str]:
    """What others were granted on a table, its columns and its sequence, as statements."""
    rows = _rows(f"""
        SELECT format('GRANT %s ON %s TO %s', a.privilege_type,
                      CASE c.relkind WHEN 'S' THEN 'SEQUENCE ' ELSE '' END || c.relname, r.rolname)
          FROM pg_class c, aclexplode(c.relacl) a JOIN pg_roles r ON r.oid = a.grantee
         WHERE c.relnamespace = current_schema::regnamespace AND c.relname IN ('{table}', '{table}_id_seq')
           AND a.grantee <> c.relowner
        UNION ALL
        SELECT format('GRANT %s (%I) ON %s TO %s', a.privilege_type, t.attname, c.relname, r.rolname)
          FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid, aclexplode(t.attacl) a
          JOIN pg_roles r ON r.oid = a.grantee
         WHERE c.relnamespace = current_schema::regnamespace AND c.relname = '{table}'
        UNION ALL
        SELECT format('ALTER TABLE %s OWNER TO %I', c.relname, r.rolname)
          FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
         WHERE c.relnamespace = current_schema::regnamespace AND c.relname = '{table}' AND r.rolname <> current_user
    """)  # noqa: S608 - our own words
    return [str(row) for row in rows]


def _run(statements: list[str]) -> None:
    for statement in statements:
        op.execute(statement)


def _rows(statement: str) -> list[object]:
    """The first column of what it finds."""
    return list(op.get_bind().execute(sa.text(statement)).scalars())


def _tables_of_retention() -> None:
    count: dict[str, Any] = {"server_default": "0", "nullable": False}
    op.create_table(
        "removed_months",
        sa.Column("classifier_id", sa.Integer(), nullable=False),
        sa.Column("first_item", sa.BigInteger(), nullable=False),
        sa.Column("end_item", sa.BigInteger(), nullable=False),
        sa.Column("removed_at", postgresql.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["classifier_id"], ["classifiers.id"], name=op.f("fk_removed_months_classifier_id_classifiers")
        ),
        sa.PrimaryKeyConstraint("classifier_id", "first_item", name=op.f("pk_removed_months")),
    )
    op.create_table(
        "past_calls",
        sa.Column("classifier_id", sa.Integer(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), **count) for name in ("calls", "tokens_in", "tokens_cached", "tokens_out")),
        sa.Column("usd", sa.Numeric(precision=18, scale=9), **count),
        sa.Column("unknown", sa.BigInteger(), **count),
        sa.Column("reused", sa.BigInteger(), **count),
        sa.ForeignKeyConstraint(
            ["classifier_id"], ["classifiers.id"], name=op.f("fk_past_calls_classifier_id_classifiers")
        ),
        sa.PrimaryKeyConstraint("classifier_id", "day", "model", name=op.f("pk_past_calls")),
    )
    op.create_table(
        "past_items",
        sa.Column("classifier_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), **count) for name in ("items", "asked", "audited")),
        sa.ForeignKeyConstraint(
            ["classifier_id"], ["classifiers.id"], name=op.f("fk_past_items_classifier_id_classifiers")
        ),
        sa.PrimaryKeyConstraint("classifier_id", "state", "source", name=op.f("pk_past_items")),
    )
    op.add_column(
        "budget_days", sa.Column("past", sa.Numeric(precision=18, scale=9), server_default="0", nullable=False)
    )
    op.add_column("submissions", sa.Column("removed", sa.Integer(), **count))
    for table, column in _LOOKED_UP:
        op.create_index(op.f(f"ix_{table}_{column}"), table, [column])


_LOOKED_UP = (
    ("dead_letters", "item_id"),
    ("dead_letters", "ask_id"),
    ("trial_answers", "ask_id"),
    ("sampled_items", "item_id"),
)


def downgrade() -> None:
    for table, column in _LOOKED_UP:
        op.drop_index(op.f(f"ix_{table}_{column}"), table_name=table)
    op.drop_column("submissions", "removed")
    op.drop_column("budget_days", "past")
    for table in ("past_items", "past_calls", "removed_months"):
        op.drop_table(table)
    op.execute(_LOCK)
    op.execute("DROP FUNCTION make_partitions(integer)")
    views = _views()
    for table, indexes in _TABLES.items():
        grants = _grants(table)
        _join(table, indexes)
        _run(grants)
    for table, column, parent in (*_KEYS, *_KEYS_TO_THEM):
        op.execute(
            f"ALTER TABLE {table} ADD CONSTRAINT fk_{table}_{column}_{parent} FOREIGN KEY ({column})"
            f" REFERENCES {parent} (id) NOT VALID"  # what retention removed, others may still name
        )
    _run(views)


def _join(table: str, indexes: tuple[tuple[str, str, str, str], ...]) -> None:
    """One plain table again, all rows copied."""
    numbered = table != "texts"
    last = _rows(f"SELECT last_value FROM {table}_id_seq")[0] if numbered else None  # noqa: S608 - our own words
    op.execute(f"CREATE TABLE {table}_whole (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
    op.execute(f"INSERT INTO {table}_whole SELECT * FROM {table}")  # noqa: S608 - our own words
    op.execute(f"DROP TABLE {table}")
    op.execute(f"ALTER TABLE {table}_whole RENAME TO {table}")
    if numbered:
        op.execute(f"ALTER TABLE {table} ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY")
        op.execute(f"SELECT setval('{table}_id_seq', {last})")
    for kind, name, columns, condition in indexes:
        plain = columns if name == "pk_texts" else columns.removesuffix(", item_id")
        _index(kind, name.removesuffix("_item_id") if kind == "uc" else name, table, plain, condition)
