"""booking a call: look for a call under way before looking for its answer

Revision ID: 0016
Revises: 0015
"""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_BOOK_CALL = """
CREATE OR REPLACE FUNCTION book_call(
    p_ask bigint, p_token uuid, p_lease_s double precision, p_classifier integer, p_model text, p_prompt_hash text,
    p_reuse_key bytea, p_tokens integer, p_usd numeric, p_beside_s double precision
) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    mine asks%ROWTYPE;
    booked bigint;
BEGIN
    IF p_beside_s IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock(hashtextextended(encode(p_reuse_key, 'hex'), 0));
@LOOKS@    END IF;
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

_PAID = """\
        PERFORM FROM answers
          WHERE classifier_id = p_classifier AND reuse_key = p_reuse_key AND reused_from IS NULL LIMIT 1;
        IF FOUND THEN RETURN NULL; END IF;
"""
_UNDER_WAY = """\
        PERFORM FROM calls
          WHERE classifier_id = p_classifier AND reuse_key = p_reuse_key AND state = 'sent' AND batch_id IS NULL
            AND ask_id <> p_ask AND created_at > now() - make_interval(secs => p_beside_s) LIMIT 1;
        IF FOUND THEN RETURN NULL; END IF;
"""


def upgrade() -> None:
    # Each statement has a snapshot of its own. A call that ended between the two looks has left its answer to the
    # second; the other way round neither was seen, and the call was paid twice.
    op.execute(_BOOK_CALL.replace("@LOOKS@", _UNDER_WAY + _PAID))


def downgrade() -> None:
    op.execute(_BOOK_CALL.replace("@LOOKS@", _PAID + _UNDER_WAY))
