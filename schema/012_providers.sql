-- Setting up the tables of one provider, and telling what is missing of them.

SET client_min_messages = warning;

-- The columns that replication needs, and the types that each may have.
CREATE OR REPLACE FUNCTION public.keytide_columns() RETURNS TABLE (part text, name text, types text[])
LANGUAGE sql IMMUTABLE AS $$
    SELECT c.part, n.name, c.types
    FROM (VALUES
        ('_keys', 'api_key username status note fail_cause', '{text,character varying}'::text[]),
        ('_keys', 'created_at expires_at failed_until disabled_until', '{timestamp with time zone}'),
        ('_keys', 'consecutive_failures weight auth_failures server_failures', '{integer,bigint}'),
        ('_keys', 'health_epoch added_v username_v note_v expires_v weight_v enabled_v disabled_v owner_v', '{bigint}'),
        ('_keys', 'owner', '{uuid}'),
        ('_keys', 'enabled needs_verification', '{boolean}'),
        ('_keys', 'state_xid', '{xid8}'),
        ('_key_stats', 'api_key', '{text,character varying}'),
        ('_key_stats', 'total_requests success_count failure_count', '{bigint}'),
        ('_key_stats', 'success_rate', '{numeric,double precision,real}'),
        ('_key_stats', 'last_used last_success last_failure', '{timestamp with time zone}'),
        ('_key_stats', 'consecutive_failures', '{integer,bigint}'),
        ('_key_stats', 'stats_xid', '{xid8}'),
        ('_client_tokens', 'token name', '{text,character varying}'),
        ('_client_tokens', 'created_at expires_at last_used', '{timestamp with time zone}'),
        ('_client_tokens', 'request_count success_count failure_count prompt_tokens completion_tokens', '{bigint}'),
        ('_client_tokens', 'added_v name_v expires_v models_v rpm_v user_v rpd_v tpd_v addresses_v', '{bigint}'),
        ('_client_tokens', 'requests_per_day tokens_per_day', '{bigint}'),
        ('_client_tokens', 'allowed_models allowed_addresses', '{jsonb}'),
        ('_client_tokens', 'user_id', '{uuid}'),
        ('_client_tokens', 'requests_per_minute', '{integer,bigint}'),
        ('_client_tokens', 'state_xid stats_xid', '{xid8}'),
        ('_global_stats', 'id', '{text,character varying}'),
        ('_global_stats', 'total_requests success_count failure_count prompt_tokens completion_tokens', '{bigint}'),
        ('_global_stats', 'updated_at last_used', '{timestamp with time zone}'),
        ('_global_stats', 'stats_xid', '{xid8}'),
        ('_model_stats', 'id', '{integer,bigint}'),
        ('_model_stats', 'provider model', '{text,character varying}'),
        ('_model_stats', 'total_requests success_count failure_count prompt_tokens completion_tokens', '{bigint}'),
        ('_model_stats', 'last_used', '{timestamp with time zone}'),
        ('_model_stats', 'stats_xid', '{xid8}'),
        ('_model_hourly', 'id', '{integer,bigint}'),
        ('_model_hourly', 'provider model', '{text,character varying}'),
        ('_model_hourly', 'hour created_at', '{timestamp with time zone}'),
        ('_model_hourly', 'requests success failure prompt_tokens completion_tokens', '{bigint}'),
        ('_model_hourly', 'stats_xid', '{xid8}')
    ) AS c (part, names, types)
    CROSS JOIN LATERAL unnest(string_to_array(c.names, ' ')) AS n (name)
$$;

-- The columns that have to be told apart without doubt.
CREATE OR REPLACE FUNCTION public.keytide_uniques() RETURNS TABLE (part text, columns text[]) LANGUAGE sql IMMUTABLE AS $$
    VALUES ('_keys', '{api_key}'::text[]), ('_key_stats', '{api_key}'), ('_client_tokens', '{token}'),
           ('_global_stats', '{id}'), ('_model_stats', '{model,provider}'), ('_model_hourly', '{hour,model,provider}')
$$;

CREATE OR REPLACE FUNCTION public.keytide_triggers() RETURNS TABLE (part text, name text, event text, call text)
LANGUAGE sql IMMUTABLE AS $$
    VALUES
        ('_keys', 'keytide_write', 'BEFORE INSERT OR UPDATE', 'keytide_keys_write'),
        ('_keys', 'keytide_added', 'AFTER INSERT OR UPDATE OF api_key', 'keytide_keys_added'),
        ('_keys', 'keytide_delete', 'BEFORE DELETE', 'keytide_keys_delete'),
        ('_keys', 'keytide_truncate', 'BEFORE TRUNCATE', 'keytide_keys_delete'),
        ('_key_stats', 'keytide_write', 'BEFORE INSERT OR UPDATE', 'keytide_key_stats_write'),
        ('_key_stats', 'keytide_added', 'AFTER INSERT', 'keytide_stats_added:key_stats'),
        ('_key_stats', 'keytide_delete', 'BEFORE DELETE', 'keytide_stats_delete:key_stats'),
        ('_key_stats', 'keytide_truncate', 'BEFORE TRUNCATE', 'keytide_stats_delete:key_stats'),
        ('_client_tokens', 'keytide_write', 'BEFORE INSERT OR UPDATE', 'keytide_tokens_write'),
        ('_client_tokens', 'keytide_added', 'AFTER INSERT OR UPDATE OF token', 'keytide_tokens_added'),
        ('_client_tokens', 'keytide_delete', 'BEFORE DELETE', 'keytide_tokens_delete'),
        ('_client_tokens', 'keytide_truncate', 'BEFORE TRUNCATE', 'keytide_tokens_delete'),
        ('_global_stats', 'keytide_write', 'BEFORE INSERT OR UPDATE', 'keytide_totals_write'),
        ('_global_stats', 'keytide_added', 'AFTER INSERT', 'keytide_stats_added:global'),
        ('_global_stats', 'keytide_delete', 'BEFORE DELETE', 'keytide_stats_delete:global'),
        ('_global_stats', 'keytide_truncate', 'BEFORE TRUNCATE', 'keytide_stats_delete:global'),
        ('_model_stats', 'keytide_write', 'BEFORE INSERT OR UPDATE', 'keytide_totals_write'),
        ('_model_stats', 'keytide_added', 'AFTER INSERT', 'keytide_stats_added:model'),
        ('_model_stats', 'keytide_delete', 'BEFORE DELETE', 'keytide_stats_delete:model'),
        ('_model_stats', 'keytide_truncate', 'BEFORE TRUNCATE', 'keytide_stats_delete:model'),
        ('_model_hourly', 'keytide_write', 'BEFORE INSERT OR UPDATE', 'keytide_hours_write')
$$;

-- The same of the stream `core`, whose tables have names of their own.
CREATE OR REPLACE FUNCTION public.keytide_core_columns() RETURNS TABLE (part text, name text, types text[])
LANGUAGE sql IMMUTABLE AS $$
    SELECT c.part, n.name, c.types
    FROM (VALUES
        ('users', 'id', '{uuid}'::text[]),
        ('users', 'name note', '{text,character varying}'),
        ('users', 'enabled', '{boolean}'),
        ('users', 'requests_per_minute', '{integer,bigint}'),
        ('users', 'requests_per_day tokens_per_day added_v', '{bigint}'),
        ('users', 'allowed_models allowed_addresses versions', '{jsonb}'),
        ('users', 'created_at', '{timestamp with time zone}'),
        ('users', 'state_xid', '{xid8}'),
        ('shared_keys', 'id user_id', '{uuid}'),
        ('shared_keys', 'provider', '{text,character varying}'),
        ('shared_keys', 'is_active', '{boolean}'),
        ('shared_keys', 'usage_stats', '{jsonb}'),
        ('shared_keys', 'last_used', '{timestamp with time zone}'),
        ('shared_keys', 'share_a share_v success_count failure_count other_count baseline', '{bigint}'),
        ('shared_keys', 'stats_day', '{integer}'),
        ('shared_keys', 'stats_xid', '{xid8}'),
        ('daily_logs', 'user_id', '{uuid}'),
        ('daily_logs', 'date', '{date}'),
        ('daily_logs', 'log_data', '{jsonb}'),
        ('daily_logs', 'stats_xid', '{xid8}'),
        ('monthly_logs', 'user_id', '{uuid}'),
        ('monthly_logs', 'month', '{date}'),
        ('monthly_logs', 'log_data', '{jsonb}'),
        ('hourly_stats', 'shared_key_id', '{uuid}'),
        ('hourly_stats', 'hour_start', '{timestamp with time zone}'),
        ('hourly_stats', 'total_requests successful_requests unique_users avg_response_time failed responses', '{integer}'),
        ('hourly_stats', 'response_ms', '{bigint}'),
        ('hourly_stats', 'stats_xid', '{xid8}'),
        ('security_events', 'event user_id shared_key_id', '{uuid}'),
        ('security_events', 'event_type', '{character varying,text}'),
        ('security_events', 'severity', '{smallint}'),
        ('security_events', 'details', '{jsonb}'),
        ('security_events', 'created_at', '{timestamp with time zone}'),
        ('security_events', 'occurrences', '{integer}')
    ) AS c (part, names, types)
    CROSS JOIN LATERAL unnest(string_to_array(c.names, ' ')) AS n (name)
$$;

CREATE OR REPLACE FUNCTION public.keytide_core_uniques() RETURNS TABLE (part text, columns text[]) LANGUAGE sql IMMUTABLE AS $$
    VALUES ('users', '{id}'::text[]), ('shared_keys', '{id}'), ('daily_logs', '{date,user_id}'), ('monthly_logs', '{month,user_id}'),
           ('hourly_stats', '{hour_start,shared_key_id}'), ('security_events', '{created_at,event}')
$$;

CREATE OR REPLACE FUNCTION public.keytide_core_triggers() RETURNS TABLE (part text, name text, event text, call text)
LANGUAGE sql IMMUTABLE AS $$
    VALUES
        ('users', 'keytide_write', 'BEFORE INSERT OR UPDATE', 'keytide_users_write'),
        ('users', 'keytide_delete', 'BEFORE DELETE', 'keytide_users_delete'),
        ('users', 'keytide_truncate', 'BEFORE TRUNCATE', 'keytide_users_delete'),
        ('shared_keys', 'keytide_write', 'BEFORE INSERT OR UPDATE', 'keytide_shares_write'),
        ('shared_keys', 'keytide_delete', 'BEFORE DELETE', 'keytide_shares_delete'),
        ('shared_keys', 'keytide_truncate', 'BEFORE TRUNCATE', 'keytide_shares_delete'),
        ('daily_logs', 'keytide_write', 'BEFORE INSERT OR UPDATE', 'keytide_days_write')
$$;

-- What a stream needs: of a provider under its prefix, of the core under the tables' own names.
CREATE OR REPLACE FUNCTION public.keytide_wanted(prefix text) RETURNS TABLE (part text, name text, types text[])
LANGUAGE sql IMMUTABLE AS $$
    SELECT prefix || c.part, c.name, c.types FROM public.keytide_columns() c WHERE prefix <> 'core'
    UNION ALL SELECT c.part, c.name, c.types FROM public.keytide_core_columns() c WHERE prefix = 'core'
$$;

-- What a table of the core that others have made asks of a row, and keytide cannot give.
CREATE OR REPLACE FUNCTION public.keytide_obstacles() RETURNS TABLE (what text) LANGUAGE sql STABLE AS $$
    WITH ours AS (
        SELECT c.oid, t.part, ARRAY(SELECT a.attnum FROM public.keytide_core_columns() k
                                    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = k.name WHERE k.part = t.part) AS known
        FROM public.keytide_core_uniques() t
        JOIN pg_class c ON c.relname = t.part AND c.relnamespace = 'public'::regnamespace
         AND c.relkind = CASE WHEN t.part IN ('daily_logs', 'hourly_stats', 'security_events') THEN 'p' ELSE 'r' END
    )
    SELECT format('default for %s.%s, which may not be empty', o.part, a.attname)
    FROM ours o JOIN pg_attribute a ON a.attrelid = o.oid AND a.attnum > 0
    WHERE a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND NOT a.attisdropped AND a.attnum <> ALL (o.known)
    UNION ALL
    SELECT format('table %s without the constraint %s', o.part, c.conname)
    FROM ours o JOIN pg_constraint c ON c.conrelid = o.oid
    WHERE c.contype IN ('f', 'c', 'x') AND c.conkey && o.known AND NOT (o.part = 'security_events' AND c.conname LIKE '%severity%')
    UNION ALL
    SELECT format('table %s without the unique index %s', o.part, i.indexrelid::regclass)
    FROM ours o JOIN pg_index i ON i.indrelid = o.oid AND i.indisunique
    WHERE i.indkey::smallint[] && o.known AND NOT EXISTS (
        SELECT 1 FROM public.keytide_core_uniques() u
        WHERE u.part = o.part AND u.columns = ARRAY(SELECT a.attname::text FROM pg_attribute a
            WHERE a.attrelid = o.oid AND a.attnum = ANY (i.indkey::smallint[]) ORDER BY 1))
$$;

-- Columns that are too narrow for what a batch may hold: one such row would keep the whole batch from being applied.
CREATE OR REPLACE FUNCTION public.keytide_narrow(prefix text) RETURNS TABLE (rel regclass, part text, name text, is_now text, wanted text)
LANGUAGE sql STABLE AS $$
    SELECT a.attrelid::regclass, c.part, c.name, format_type(a.atttypid, a.atttypmod), format_type(a.atttypid, NULL)
    FROM public.keytide_wanted(prefix) c
    JOIN pg_attribute a ON a.attrelid = to_regclass(format('public.%I', c.part)) AND a.attname = c.name
    WHERE a.atttypmod >= 0 AND c.name <> 'event_type' AND CASE a.atttypid
        WHEN 'varchar'::regtype THEN a.atttypmod - 4 < 512
        WHEN 'numeric'::regtype THEN ((a.atttypmod - 4) >> 16 & 65535) - (a.atttypmod - 4 & 2047) < 3
        ELSE false END
$$;

-- What keeps a stream from being replicated; empty if nothing does. In plpgsql, which plans this once for a session: planning
-- it costs ten times what running it does, and every push asks.
CREATE OR REPLACE FUNCTION public.keytide_missing(prefix text) RETURNS text[] LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
    WITH tables AS (
        SELECT u.part, u.columns, to_regclass(format('public.%I', u.part)) AS rel
        FROM (SELECT prefix || u.part AS part, u.columns FROM public.keytide_uniques() u WHERE prefix <> 'core'
              UNION ALL SELECT u.part, u.columns FROM public.keytide_core_uniques() u WHERE prefix = 'core') u
    ), others AS (
        SELECT t.part, format('table %s of another make instead of %s', t.part, CASE t.part
            WHEN 'daily_logs' THEN 'one partitioned by date' WHEN 'hourly_stats' THEN 'one partitioned by hour_start'
            WHEN 'security_events' THEN 'one partitioned by created_at' ELSE 'a plain table' END) AS what
        FROM tables t JOIN pg_class c ON c.oid = t.rel
        WHERE prefix = 'core' AND c.relkind <> CASE WHEN t.part IN ('daily_logs', 'hourly_stats', 'security_events') THEN 'p' ELSE 'r' END
    ), attributes AS (
        SELECT t.part, a.attname::text AS name, split_part(format_type(a.atttypid, NULL), '(', 1) AS type
        FROM tables t JOIN pg_attribute a ON a.attrelid = t.rel AND a.attnum > 0 AND NOT a.attisdropped
    ), uniques AS (
        SELECT t.part, ARRAY(SELECT a.attname::text FROM pg_attribute a
                             WHERE a.attrelid = t.rel AND a.attnum = ANY (i.indkey::smallint[]) ORDER BY 1) AS columns
        FROM tables t JOIN pg_index i ON i.indrelid = t.rel
        WHERE i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
    ), triggers AS (
        SELECT prefix || g.part AS part, g.name FROM public.keytide_triggers() g WHERE prefix <> 'core'
        UNION ALL SELECT g.part, g.name FROM public.keytide_core_triggers() g WHERE prefix = 'core'
    ), problems AS (
        SELECT 1 AS o, 'table ' || t.part AS what FROM tables t WHERE t.rel IS NULL
        UNION ALL
        SELECT 1, o.what FROM others o
        UNION ALL
        SELECT 2, CASE WHEN a.name IS NULL THEN format('column %s.%s', c.part, c.name)
                       ELSE format('column %s.%s of type %s instead of %s', c.part, c.name, a.type, c.types[1]) END
        FROM public.keytide_wanted(prefix) c JOIN tables t ON t.part = c.part AND t.rel IS NOT NULL
        LEFT JOIN attributes a ON a.part = c.part AND a.name = c.name
        WHERE (a.name IS NULL OR a.type <> ALL (c.types)) AND c.part NOT IN (SELECT o.part FROM others o)
        UNION ALL
        SELECT 2, format('column %s.%s of type %s instead of %s', n.part, n.name, n.is_now, n.wanted)
        FROM public.keytide_narrow(prefix) n WHERE n.part NOT IN (SELECT o.part FROM others o)
        UNION ALL
        SELECT 3, format('unique index on %s (%s)', t.part, array_to_string(t.columns, ', '))
        FROM tables t WHERE t.rel IS NOT NULL AND t.part NOT IN (SELECT o.part FROM others o) AND NOT EXISTS (
            SELECT 1 FROM uniques u WHERE u.part = t.part AND u.columns = t.columns)
        UNION ALL
        SELECT 4, format('trigger %s on %s', g.name, g.part)
        FROM triggers g JOIN tables t ON t.part = g.part AND t.rel IS NOT NULL
        WHERE g.part NOT IN (SELECT o.part FROM others o)
          AND NOT EXISTS (SELECT 1 FROM pg_trigger p
                          WHERE p.tgrelid = t.rel AND p.tgname = g.name AND p.tgenabled IN ('O', 'A'))
        UNION ALL
        SELECT 5, o.what FROM public.keytide_obstacles() o WHERE prefix = 'core'
    )
    SELECT coalesce(array_agg(what ORDER BY o, what), '{}') FROM problems);
END $$;

-- Closes a table, its partitions, and what numbers its rows to the roles that Supabase serves to anybody.
CREATE OR REPLACE FUNCTION public.keytide_close(relation regclass) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    who text;
    numbers regclass;
    part regclass;
BEGIN
    FOR who, numbers IN
        SELECT r.rolname, d.objid::regclass FROM pg_catalog.pg_depend d
        JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
        CROSS JOIN (SELECT rolname FROM pg_catalog.pg_roles WHERE rolname IN ('anon', 'authenticated')) r
        WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refobjid = relation
    LOOP
        EXECUTE format('REVOKE ALL ON SEQUENCE %s FROM %I', numbers, who);
    END LOOP;
    -- A partition can be read by its own name. One that is somebody else's is theirs to close, and `check` says so.
    FOR part IN
        WITH RECURSIVE tree AS (
            SELECT relation::oid AS oid
            UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN tree ON i.inhparent = tree.oid)
        SELECT c.oid::regclass FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.oid
        WHERE c.relkind IN ('r', 'p') AND (c.oid = relation OR pg_catalog.pg_has_role(c.relowner, 'USAGE'))
    LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', part);
        EXECUTE format('REVOKE ALL ON TABLE %s FROM PUBLIC', part);
        FOR who IN SELECT rolname FROM pg_catalog.pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
            EXECUTE format('REVOKE ALL ON TABLE %s FROM %I', part, who);
        END LOOP;
    END LOOP;
END $$;

-- Makes what depends on what is there already: unique indexes, columns that may be empty, triggers, rights.
CREATE OR REPLACE FUNCTION public.keytide_install(prefix text, provider text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    one record;
    twice bigint;
    tail text;
BEGIN
    IF prefix = 'core' OR provider = 'core' THEN
        RAISE EXCEPTION 'a provider or its tables cannot be called "core": that is what belongs to no provider';
    END IF;
    FOR one IN
        SELECT u.part, u.columns, to_regclass(format('public.%I', prefix || u.part)) AS rel
        FROM public.keytide_uniques() u
    LOOP
        PERFORM public.keytide_close(one.rel);
        CONTINUE WHEN EXISTS (
            SELECT 1 FROM pg_index i
            WHERE i.indrelid = one.rel AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
              AND one.columns = ARRAY(SELECT a.attname::text FROM pg_attribute a
                  WHERE a.attrelid = one.rel AND a.attnum = ANY (i.indkey::smallint[]) ORDER BY 1));
        EXECUTE format('SELECT count(*) FROM (SELECT 1 FROM %s GROUP BY %s HAVING count(*) > 1) d', one.rel,
                       array_to_string(one.columns, ', ')) INTO twice;
        IF twice > 0 THEN
            RAISE WARNING '% (%) holds % values more than once: merge those rows, then run this again; until then the provider % is not replicated',
                one.rel, array_to_string(one.columns, ', '), twice, provider;
        ELSE
            EXECUTE format('CREATE UNIQUE INDEX %I ON %s (%s)', prefix || one.part || '_unique', one.rel,
                           array_to_string(one.columns, ', '));
        END IF;
    END LOOP;

    -- keytide leaves empty what it does not know.
    FOR one IN
        SELECT a.attrelid::regclass AS rel, a.attname
        FROM public.keytide_columns() c
        JOIN pg_attribute a ON a.attrelid = to_regclass(format('public.%I', prefix || c.part)) AND a.attname = c.name
        WHERE a.attnotnull AND c.name IN ('username', 'name', 'expires_at', 'failed_until', 'disabled_until', 'last_used',
                                          'last_success', 'last_failure')
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I DROP NOT NULL', one.rel, one.attname);
    END LOOP;

    -- No row is rewritten by this.
    FOR one IN SELECT * FROM public.keytide_narrow(prefix) LOOP
        BEGIN
            EXECUTE format('DROP TRIGGER IF EXISTS keytide_added_anew ON %s', one.rel);
            EXECUTE format('ALTER TABLE %s ALTER COLUMN %I TYPE %s', one.rel, one.name, one.wanted);
        EXCEPTION WHEN feature_not_supported OR dependent_objects_still_exist THEN
            RAISE WARNING '%.% is of type % and has to be %, which something of yours that depends on it does not let happen: %; until then the provider % is not replicated',
                one.rel, one.name, one.is_now, one.wanted, SQLERRM, provider;
        END;
    END LOOP;

    FOR one IN SELECT * FROM public.keytide_triggers() LOOP
        tail := CASE WHEN one.event LIKE '%TRUNCATE' THEN 'FOR EACH STATEMENT' ELSE 'FOR EACH ROW' END;
        IF one.event LIKE 'AFTER INSERT OR UPDATE OF%' THEN
            -- One for each, since only one of them may look at what was.
            EXECUTE format('DROP TRIGGER IF EXISTS %I ON public.%I', one.name || '_anew', prefix || one.part);
            EXECUTE format(
                'CREATE TRIGGER %I AFTER UPDATE ON public.%I FOR EACH ROW WHEN (old.%3$I IS DISTINCT FROM new.%3$I AND '
                'pg_catalog.current_setting(''keytide.writer'', true) IS DISTINCT FROM ''on'') EXECUTE FUNCTION public.%I(%L)',
                one.name || '_anew', prefix || one.part, split_part(one.event, ' OF ', 2), one.call, prefix);
            one.event := 'AFTER INSERT';
        END IF;
        EXECUTE format('DROP TRIGGER IF EXISTS %I ON public.%I', one.name, prefix || one.part);
        EXECUTE format(
            'CREATE TRIGGER %I %s ON public.%I %s WHEN (pg_catalog.current_setting(''keytide.writer'', true) '
            'IS DISTINCT FROM ''on'') EXECUTE FUNCTION public.%I(%L, %L)',
            one.name, one.event, prefix || one.part, tail, split_part(one.call, ':', 1), prefix, split_part(one.call, ':', 2));
    END LOOP;

    INSERT INTO public.keytide_reports (kind, table_name)
    SELECT k.kind, prefix || u.part FROM public.keytide_uniques() u, (VALUES ('counter_lowered'), ('unreadable')) k (kind)
    ON CONFLICT DO NOTHING;
END $$;
