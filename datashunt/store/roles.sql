-- Roles of least privilege for a datashunt database. Run it after each `datashunt db upgrade`, as the owner of the
-- tables, who must be allowed to create roles the first time. It changes nothing when it is run again.
--
--   datashunt_producer   submits items, reads receipts and outcomes: all of Client but forget
--   datashunt_worker     workers and beat: every lane; changes no classifier's file, deletes nothing of items; makes the
--                        partitions of the next months by a function of the owner's, and drops none
--   datashunt_reader     reads all but texts; changes nothing
--   datashunt_migrator   owns the tables: `datashunt db upgrade`, `datashunt retention`, and every command of the operator
--
-- None of them can log in. Make logins and grant them: CREATE ROLE shop LOGIN PASSWORD '…' IN ROLE datashunt_producer;
DO $$
DECLARE
    name text;
    made record;
BEGIN
    FOREACH name IN ARRAY ARRAY['datashunt_producer', 'datashunt_worker', 'datashunt_reader', 'datashunt_migrator'] LOOP
        IF to_regrole(name) IS NULL THEN
            EXECUTE 'CREATE ROLE ' || name || ' NOLOGIN';
        END IF;
    END LOOP;

    -- Whoever runs this stays able to run it again, and to use the tables that he made.
    IF NOT pg_has_role(current_user, 'datashunt_migrator', 'USAGE') THEN
        EXECUTE 'GRANT datashunt_migrator TO ' || quote_ident(current_user);
    END IF;
    EXECUTE 'GRANT USAGE ON SCHEMA ' || quote_ident(current_schema)
        || ' TO datashunt_producer, datashunt_worker, datashunt_reader, datashunt_migrator';
    EXECUTE 'GRANT CREATE ON SCHEMA ' || quote_ident(current_schema) || ' TO datashunt_migrator';

    FOR made IN
        SELECT c.oid::regclass AS what, c.relkind AS kind FROM pg_class c
         WHERE c.relnamespace = current_schema::regnamespace AND c.relkind IN ('r', 'p', 'v')
           AND pg_get_userbyid(c.relowner) <> 'datashunt_migrator'
    LOOP
        EXECUTE 'ALTER ' || CASE made.kind WHEN 'v' THEN 'VIEW ' ELSE 'TABLE ' END || made.what
            || ' OWNER TO datashunt_migrator';
    END LOOP;
    FOR made IN
        SELECT p.oid::regprocedure AS what, pg_get_userbyid(p.proowner) AS owner FROM pg_proc p
         WHERE p.pronamespace = current_schema::regnamespace AND p.proname IN ('book_call', 'make_partitions')
    LOOP
        IF made.owner <> 'datashunt_migrator' THEN
            EXECUTE 'ALTER FUNCTION ' || made.what || ' OWNER TO datashunt_migrator';
        END IF;
        EXECUTE 'REVOKE EXECUTE ON FUNCTION ' || made.what || ' FROM PUBLIC';
        EXECUTE 'GRANT EXECUTE ON FUNCTION ' || made.what || ' TO datashunt_worker';
    END LOOP;

    -- What was granted before and is listed no more, ends.
    EXECUTE 'REVOKE ALL ON ALL TABLES IN SCHEMA ' || quote_ident(current_schema)
        || ' FROM datashunt_producer, datashunt_worker, datashunt_reader';
    EXECUTE 'REVOKE ALL ON ALL SEQUENCES IN SCHEMA ' || quote_ident(current_schema)
        || ' FROM datashunt_producer, datashunt_worker, datashunt_reader';

    FOR made IN
        SELECT c.oid::regclass AS what, c.relkind AS kind FROM pg_class c
         WHERE c.relnamespace = current_schema::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S')
           AND NOT c.relispartition -- those are read and written through their tables
    LOOP
        IF made.kind = 'S' THEN
            EXECUTE 'GRANT USAGE ON SEQUENCE ' || made.what || ' TO datashunt_worker';
        ELSE
            EXECUTE 'GRANT SELECT ON ' || made.what || ' TO datashunt_worker';
            IF made.what <> to_regclass('texts') THEN
                EXECUTE 'GRANT SELECT ON ' || made.what || ' TO datashunt_reader';
            END IF;
        END IF;
    END LOOP;

    FOR made IN
        SELECT granted.* FROM (VALUES
            ('producer', 'SELECT (id, name)', 'classifiers'),
            ('producer', 'SELECT (classifier_id, version, labels)', 'specs'),
            ('producer', 'SELECT (id, version)', 'bundles'),
            ('producer', 'SELECT', 'removed_ids'),
            ('producer', 'SELECT, INSERT', 'submissions'),
            ('producer', 'UPDATE (classifier, payload_hash, accepted, known, refused, error)', 'submissions'),
            ('producer', 'SELECT, INSERT', 'refusals'),
            ('producer', 'SELECT', 'items'),
            ('producer', 'INSERT (id, classifier_id, key, text_hash, submission_id, priority, deadline)', 'items'),
            ('producer', 'INSERT', 'texts'),
            ('producer', 'SELECT', 'outcomes'),
            ('producer', 'SELECT (id, item_id, llm_model)', 'answers'),
            ('producer', 'SELECT (id, item_id)', 'asks'),
            ('producer', 'SELECT (ask_id, item_id, cost_usd, reserved_usd)', 'calls'),
            ('producer', 'USAGE', 'items_id_seq'),
            ('worker', 'UPDATE (incumbent_id, audit_rate)', 'classifiers'),
            ('worker', 'INSERT, UPDATE', 'submissions'),
            ('worker', 'INSERT', 'refusals'),
            ('worker', 'INSERT', 'items'),
            ('worker', 'UPDATE (state, label, source, outcome_id, done_at, attempts)', 'items'),
            ('worker', 'UPDATE (lease_token, lease_until, announced_at)', 'items'),
            ('worker', 'INSERT', 'texts'),
            ('worker', 'INSERT', 'scores'),
            ('worker', 'INSERT, UPDATE', 'asks'),
            ('worker', 'INSERT, UPDATE', 'calls'),
            ('worker', 'INSERT', 'answers'),
            ('worker', 'INSERT', 'outcomes'),
            ('worker', 'INSERT, UPDATE', 'dead_letters'),
            ('worker', 'INSERT, UPDATE', 'due'),
            ('worker', 'INSERT, UPDATE', 'batches'),
            ('worker', 'INSERT, UPDATE', 'budget_days'),
            ('worker', 'INSERT', 'bundles'),
            ('worker', 'UPDATE (state, prune_cut, evaluation)', 'bundles'),
            ('worker', 'INSERT', 'promotions'),
            ('worker', 'INSERT, UPDATE', 'distillations'),
            ('worker', 'INSERT, UPDATE', 'trials'),
            ('worker', 'INSERT, UPDATE', 'trial_answers'),
            ('worker', 'INSERT, UPDATE', 'guards'),
            ('worker', 'UPDATE (bundles)', 'forgotten'),
            ('worker', 'INSERT, UPDATE', 'certificates'),
            ('worker', 'INSERT', 'delta_ledger'),
            ('worker', 'INSERT', 'events'),
            ('worker', 'INSERT, UPDATE, DELETE', 'workers')
        ) AS granted (role, right_to, what)
        WHERE to_regclass(granted.what) IS NOT NULL
    LOOP
        EXECUTE 'GRANT ' || made.right_to || ' ON '
            || CASE made.right_to WHEN 'USAGE' THEN 'SEQUENCE ' ELSE '' END || made.what || ' TO datashunt_' || made.role;
    END LOOP;
END $$;
