"""booking a call in one round trip

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# Under READ COMMITTED each statement of a volatile function has a snapshot of its own: what is looked for after the
# lock sees all that others stored before they gave it back.
_BOOK_CALL = """
CREATE FUNCTION book_call(
    p_ask bigint, p_token uuid, p_lease_s double precision, p_classifier integer, p_model text, p_prompt_hash text,
    p_reuse_key bytea, p_tokens integer, p_usd numeric, p_beside_s double precision
) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    mine asks%ROWTYPE;
    booked bigint;
BEGIN
    IF p_beside_s IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock(hashtextextended(encode(p_reuse_key, 'hex'), 0));
        PERFORM FROM answers
          WHERE classifier_id = p_classifier AND reuse_key = p_reuse_key AND reused_from IS NULL LIMIT 1;
        IF FOUND THEN RETURN NULL; END IF;
        PERFORM FROM calls
          WHERE classifier_id = p_classifier AND reuse_key = p_reuse_key AND state = 'sent' AND batch_id IS NULL
            AND ask_id <> p_ask AND created_at > now() - make_interval(secs => p_beside_s) LIMIT 1;
        IF FOUND THEN RETURN NULL; END IF;
    END IF;
    SELECT * INTO mine FROM asks WHERE id = p_ask FOR UPDATE;
    IF mine.lease_token = p_token AND mine.state = 'calling' AND mine.lease_until > now() THEN
        UPDATE asks SET lease_until = now() + make_interval(secs => p_lease_s), budget_day_id = NULL, reserved = NULL
          WHERE id = p_ask;
        INSERT INTO calls (ask_id, item_id, classifier_id, attempt, model, prompt_hash, reuse_key, reserved_tokens,
                           reserved_usd, budget_day_id, budget_reserved)
          VALUES (p_ask, mine.item_id, p_classifier, mine.attempts + mine.misses + 1, p_model, p_prompt_hash,
                  p_reuse_key, p_tokens, p_usd, mine.budget_day_id, mine.reserved)
          RETURNING id INTO booked;
    END IF;
    RETURN booked;
END $$
"""


def upgrade() -> None:
    op.execute(_BOOK_CALL)


def downgrade() -> None:
    op.execute("DROP FUNCTION book_call")
