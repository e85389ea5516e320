-- The tables of users, days, hours and events, which belong to no provider: the stream `core`.

SET client_min_messages = warning;

CREATE TABLE IF NOT EXISTS public.users (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text,
    note text,
    enabled boolean DEFAULT true,
    requests_per_minute integer,
    requests_per_day bigint,
    tokens_per_day bigint,
    allowed_models jsonb,
    allowed_addresses jsonb,
    created_at timestamptz DEFAULT now(),
    added_v bigint NOT NULL DEFAULT 0,
    versions jsonb NOT NULL DEFAULT '{}',
    state_xid xid8 NOT NULL DEFAULT '0'
);

-- Where every row may change in one batch, about half of each page is left free: then the changed rows find place beside the
-- old ones, no index has to follow, and the table never grows.
CREATE TABLE IF NOT EXISTS public.shared_keys (
    id uuid PRIMARY KEY,
    provider text,
    user_id uuid,
    is_active boolean DEFAULT true,
    usage_stats jsonb DEFAULT '{}',
    created_at timestamptz DEFAULT now()
) WITH (fillfactor = 55);

-- The tables in parts: by month, by day, by month, by day.
CREATE OR REPLACE FUNCTION public.keytide_make_parted() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    CREATE TABLE IF NOT EXISTS public.daily_logs (
        user_id uuid NOT NULL,
        date date NOT NULL,
        log_data jsonb NOT NULL DEFAULT '{}',
        stats_xid xid8 NOT NULL DEFAULT '0',
        PRIMARY KEY (user_id, date)
    ) PARTITION BY RANGE (date);
    CREATE TABLE IF NOT EXISTS public.hourly_stats (
        id bigserial NOT NULL,
        hour_start timestamptz NOT NULL,
        shared_key_id uuid NOT NULL,
        total_requests integer NOT NULL DEFAULT 0,
        successful_requests integer NOT NULL DEFAULT 0,
        unique_users integer NOT NULL DEFAULT 0,
        avg_response_time integer,
        response_ms bigint NOT NULL DEFAULT 0,
        stats_xid xid8 NOT NULL DEFAULT '0',
        failed integer NOT NULL DEFAULT 0,
        responses integer NOT NULL DEFAULT 0,
        PRIMARY KEY (hour_start, shared_key_id)
    ) PARTITION BY RANGE (hour_start);
    CREATE TABLE IF NOT EXISTS public.security_events (
        id bigserial NOT NULL,
        event_type varchar(50) NOT NULL,
        user_id uuid,
        shared_key_id uuid,
        severity smallint NOT NULL DEFAULT 1 CHECK (severity BETWEEN 1 AND 5),
        details jsonb,
        created_at timestamptz NOT NULL DEFAULT now(),
        event uuid NOT NULL DEFAULT gen_random_uuid(),
        -- How many it stands for.
        occurrences integer NOT NULL DEFAULT 1,
        PRIMARY KEY (event, created_at)
    ) PARTITION BY RANGE (created_at);
    -- Attempts of a key on a day, and how many used it: what stays when hours go.
    CREATE TABLE IF NOT EXISTS public.keytide_key_days (
        day integer NOT NULL,
        users integer NOT NULL DEFAULT 0,
        key_id uuid NOT NULL,
        success bigint NOT NULL DEFAULT 0,
        failure bigint NOT NULL DEFAULT 0,
        other bigint NOT NULL DEFAULT 0,
        last_used timestamptz,
        stats_xid xid8 NOT NULL DEFAULT '0',
        PRIMARY KEY (day, key_id)
    ) PARTITION BY RANGE (day);
END $$;
SELECT public.keytide_make_parted();

-- What older daily logs were folded into; `month` is its first day.
CREATE TABLE IF NOT EXISTS public.monthly_logs (
    user_id uuid NOT NULL,
    month date NOT NULL,
    log_data jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (month, user_id)
);

-- What a token, or a user, has used of its limits: token_id is the id of either.
CREATE TABLE IF NOT EXISTS public.keytide_token_days (
    day integer NOT NULL,
    token_id uuid NOT NULL,
    success bigint NOT NULL DEFAULT 0,
    failure bigint NOT NULL DEFAULT 0,
    other bigint NOT NULL DEFAULT 0,
    prompt_tokens bigint NOT NULL DEFAULT 0,
    completion_tokens bigint NOT NULL DEFAULT 0,
    last_used timestamptz,
    stats_xid xid8 NOT NULL DEFAULT '0',
    PRIMARY KEY (day, token_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

-- Who used a key in an hour (`kh`) or on a day (`kd`): kept as long as it may still change. A day's rows go while the next one's
-- come, so whatever they leave is to be found soon.
CREATE TABLE IF NOT EXISTS public.keytide_user_sets (
    kind text NOT NULL,
    n bigint NOT NULL,
    id uuid NOT NULL,
    members uuid[] NOT NULL,
    stats_xid xid8 NOT NULL DEFAULT '0',
    PRIMARY KEY (kind, n, id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

-- Which hours and days each instance's batches have changed last, so that a pull need not look at the others.
CREATE TABLE IF NOT EXISTS public.keytide_touches (
    instance uuid NOT NULL,
    kind text NOT NULL,
    n bigint NOT NULL,
    stats_xid xid8 NOT NULL DEFAULT '0',
    PRIMARY KEY (instance, kind, n)
) WITH (fillfactor = 50);

-- As the plan asks; with the default of jsonb it is the same.
DO $$ BEGIN
    IF (SELECT atttypid = 'jsonb'::regtype AND attstorage <> 'x' FROM pg_attribute
        WHERE attrelid = 'public.daily_logs'::regclass AND attname = 'log_data') THEN
        ALTER TABLE public.daily_logs ALTER COLUMN log_data SET STORAGE EXTENDED;
    END IF;
    IF (SELECT atttypid = 'jsonb'::regtype AND attstorage <> 'x' FROM pg_attribute
        WHERE attrelid = 'public.shared_keys'::regclass AND attname = 'usage_stats') THEN
        ALTER TABLE public.shared_keys ALTER COLUMN usage_stats SET STORAGE EXTENDED;
    END IF;
END $$;

-- The slim log, if the table of that name is keytide's.
CREATE OR REPLACE FUNCTION public.keytide_own_log() RETURNS regclass LANGUAGE sql STABLE AS $$
    SELECT c.oid::regclass FROM pg_class c
    WHERE c.oid = to_regclass('public.key_usage_logs') AND c.relkind = 'p'
      AND obj_description(c.oid, 'pg_class') = 'keytide: a row per request, kept for seven days'
$$;

-- Tables in parts: how long one part is. Those that are there and are really partitioned.
CREATE OR REPLACE FUNCTION public.keytide_parted() RETURNS TABLE (name text, unit text) LANGUAGE sql STABLE AS $$
    SELECT p.name, p.unit
    FROM (VALUES ('daily_logs', 'month'), ('security_events', 'month'), ('hourly_stats', 'day'),
                 ('keytide_key_days', 'day'), ('key_usage_logs', 'day')) p (name, unit)
    JOIN pg_class c ON c.relname = p.name AND c.relnamespace = 'public'::regnamespace AND c.relkind = 'p'
    WHERE p.name <> 'key_usage_logs'
        OR public.keytide_own_log() IS NOT NULL AND (SELECT s.usage_logs FROM public.keytide_settings s)
$$;

-- The bound of a part, as a date in UTC; days are numbers.
CREATE OR REPLACE FUNCTION public.keytide_bound(bound text) RETURNS timestamp LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN bound ~ '^\d{1,6}$' THEN public.keytide_day(bound::bigint)::timestamp ELSE bound::timestamptz::timestamp END
$$;

-- The parts of a table, and what each holds, as dates in UTC.
CREATE OR REPLACE FUNCTION public.keytide_parts(of_table text) RETURNS TABLE (part regclass, starts timestamp, ends timestamp)
LANGUAGE plpgsql STABLE SET timezone = 'UTC' SET datestyle = 'ISO' AS $$
BEGIN
    RETURN QUERY
    SELECT b.oid::regclass,
        CASE WHEN b.bound = 'DEFAULT' OR b.bound LIKE '%FROM (MINVALUE)%' THEN '-infinity'
             ELSE public.keytide_bound(substring(b.bound FROM 'FROM \(''?([^'')]+)')) END,
        CASE WHEN b.bound = 'DEFAULT' OR b.bound LIKE '%TO (MAXVALUE)%' THEN 'infinity'
             ELSE public.keytide_bound(substring(b.bound FROM 'TO \(''?([^'')]+)')) END
    FROM (SELECT c.oid, pg_get_expr(c.relpartbound, c.oid) AS bound
          FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
          WHERE i.inhparent = to_regclass(format('public.%I', of_table)) AND c.relpartbound IS NOT NULL) b
    ORDER BY 2;
END $$;

-- A moment as a table's parts are told apart by it.
CREATE OR REPLACE FUNCTION public.keytide_edge(of_table text, at timestamp) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE of_table WHEN 'keytide_key_days' THEN (at::date - '1970-01-01'::date)::text ELSE at::text END
$$;

-- Makes the part of a table that holds a moment, unless there is one. Attaching it keeps nobody from the others.
CREATE OR REPLACE FUNCTION public.keytide_part(of_table text, unit text, at timestamp) RETURNS void
LANGUAGE plpgsql VOLATILE SET timezone = 'UTC' AS $$
DECLARE
    starts timestamp := date_trunc(unit, at);
    ends timestamp := starts + ('1 ' || unit)::interval;
    name text := of_table || to_char(starts, CASE unit WHEN 'month' THEN '_YYYY_MM' ELSE '_YYYY_MM_DD' END);
BEGIN
    IF EXISTS (SELECT 1 FROM public.keytide_parts(of_table) p WHERE at >= p.starts AND at < p.ends) THEN RETURN; END IF;
    -- Of a month only the last day changes: what it leaves in full pages is to be found soon.
    EXECUTE format('CREATE TABLE public.%I (LIKE public.%I INCLUDING ALL) WITH (%s)', name, of_table,
                   CASE WHEN of_table IN ('hourly_stats', 'keytide_key_days') THEN 'fillfactor = 50'
                        WHEN of_table = 'daily_logs' THEN 'fillfactor = 100, autovacuum_vacuum_scale_factor = 0.02'
                        ELSE 'fillfactor = 100' END);
    PERFORM public.keytide_close(to_regclass(format('public.%I', name)));
    EXECUTE format('ALTER TABLE public.%I ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)', of_table, name,
                   public.keytide_edge(of_table, starts), public.keytide_edge(of_table, ends));
EXCEPTION WHEN duplicate_table OR invalid_object_definition OR check_violation THEN
    -- Something of another make is in the way: what belongs there is answered as no longer kept.
    PERFORM public.keytide_report('no_partition', of_table);
END $$;

-- The parts for now and for what comes next.
CREATE OR REPLACE FUNCTION public.keytide_parts_ahead() RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    at timestamp := public.keytide_now() AT TIME ZONE 'UTC';
BEGIN
    PERFORM public.keytide_part(t.name, t.unit, n.at)
    FROM public.keytide_parted() t
    CROSS JOIN LATERAL (SELECT at + s * '1 day'::interval AS at
                        FROM unnest(CASE t.unit WHEN 'month' THEN '{0,2,31}' ELSE '{0,1,2}' END::integer[]) s) n
    ORDER BY t.name, n.at;
END $$;

-- The slim log of the plan: switched on, a row per request is kept for seven days.
CREATE OR REPLACE FUNCTION public.keytide_usage_logs(wanted boolean) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    columns text;
BEGIN
    IF NOT wanted THEN
        UPDATE public.keytide_settings SET usage_logs = false;
        RETURN 'no row per request is kept from now on; what key_usage_logs holds stays until it is deleted';
    END IF;
    IF EXISTS (SELECT 1 FROM pg_class WHERE relname = 'key_usage_logs' AND relnamespace = 'public'::regnamespace) THEN
        SELECT string_agg(format('%s %s', a.attname, format_type(a.atttypid, NULL)), ', ' ORDER BY a.attnum) INTO columns
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        WHERE a.attrelid = 'public.key_usage_logs'::regclass AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind = 'p';
        IF columns IS DISTINCT FROM 'id bigint, shared_key_id uuid, user_id uuid, usage_type smallint, status_code smallint, '
            'created_at timestamp without time zone' THEN
            RAISE EXCEPTION 'there is a table key_usage_logs of another make already, and its rows are left alone'
                USING HINT = 'Move its totals with `keytide migrate usage-logs` and drop it, or rename it; then switch the log on again.';
        END IF;
    ELSE
        CREATE TABLE public.key_usage_logs (
            id bigserial NOT NULL,
            shared_key_id uuid NOT NULL,
            user_id uuid NOT NULL,
            usage_type smallint,
            status_code smallint,
            created_at timestamp NOT NULL
        ) PARTITION BY RANGE (created_at);
        -- Rows come in order of time: a range of pages is told by its bounds, where a tree would take a fifth of the log again.
        CREATE INDEX idx_key_usage_logs_cleanup ON public.key_usage_logs USING brin (created_at);
    END IF;
    -- Its rows go after seven days: those of a table that somebody else has made never do.
    COMMENT ON TABLE public.key_usage_logs IS 'keytide: a row per request, kept for seven days';
    PERFORM public.keytide_close('public.key_usage_logs'::regclass);
    UPDATE public.keytide_settings SET usage_logs = true;
    PERFORM public.keytide_parts_ahead();
    -- Made here, since a table of another make may have one of its own.
    CREATE OR REPLACE FUNCTION "public".cleanup_key_usage_logs() RETURNS void LANGUAGE plpgsql SET search_path = '' AS $cleanup$
    BEGIN
        PERFORM public.keytide_shed('key_usage_logs', public.keytide_now() - '7 days'::interval, 50000);
    END $cleanup$;
    REVOKE ALL ON FUNCTION public.cleanup_key_usage_logs() FROM PUBLIC;
    IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'anon') THEN
        EXECUTE (SELECT format('REVOKE ALL ON FUNCTION public.cleanup_key_usage_logs() FROM %s',
                               string_agg(quote_ident(rolname), ', '))
                 FROM pg_roles WHERE rolname IN ('anon', 'authenticated'));
    END IF;
    RETURN 'a row per request is kept for seven days';
END $$;

-- An earlier form answered in other columns, and others took other arguments: neither can be replaced.
DROP FUNCTION IF EXISTS public.keytide_shed(text, timestamptz, integer), public.keytide_settle(text, timestamptz),
    public.keytide_retain_core(bigint);

-- Forgets what a table in parts holds from before a moment: whole parts are dropped, which gives their space back at
-- once; of the one in which it lies some rows are deleted. Returns how many rows, with those of dropped parts as
-- the statistics tell, whether some are left, and whether somebody holds the table, so that another time is better.
CREATE OR REPLACE FUNCTION public.keytide_shed(
    of_table text, before timestamptz, most integer, OUT parts bigint, OUT rows bigint, OUT more boolean, OUT held boolean
) LANGUAGE plpgsql VOLATILE SET timezone = 'UTC' SET lock_timeout = '1s' AS $$
DECLARE
    one record;
    deleted bigint;
    moment timestamp := before AT TIME ZONE 'UTC';
    key text := CASE of_table WHEN 'hourly_stats' THEN 'hour_start' WHEN 'daily_logs' THEN 'date'
                              WHEN 'keytide_key_days' THEN 'day' ELSE 'created_at' END;
BEGIN
    parts := 0; rows := 0; more := false; held := false;
    FOR one IN SELECT * FROM public.keytide_parts(of_table) p WHERE p.starts < moment ORDER BY p.starts LOOP
        IF one.ends <= moment THEN
            BEGIN
                SELECT greatest(c.reltuples, 0)::bigint INTO deleted FROM pg_class c WHERE c.oid = one.part;
                EXECUTE format('DROP TABLE %s', one.part);
                parts := parts + 1;
                rows := rows + deleted;
                CONTINUE;
            EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
                PERFORM public.keytide_report('locked', of_table);
                held := true;
                RETURN;
            WHEN dependent_objects_still_exist OR insufficient_privilege THEN
                -- Somebody's view, or somebody's part: then at least its rows go.
                NULL;
            END;
        END IF;
        BEGIN
            EXECUTE format('DELETE FROM %1$s WHERE ctid = ANY (ARRAY(SELECT ctid FROM %1$s WHERE %2$I < %3$L LIMIT %4$s))',
                           one.part, key, public.keytide_edge(of_table, moment), most);
            GET DIAGNOSTICS deleted = ROW_COUNT;
            rows := rows + deleted;
            more := more OR deleted >= most;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            PERFORM public.keytide_report('locked', of_table);
            held := true;
            RETURN;
        WHEN insufficient_privilege THEN
            PERFORM public.keytide_report('not_owner', of_table);
        END;
    END LOOP;
END $$;

-- Parts that are over and have free space in their pages, which nobody needs any more, or few rows: those that were never
-- written anew come first. `loose` are tables of which most can be reused.
CREATE OR REPLACE FUNCTION public.keytide_unsettled(before timestamptz, loose oid[])
RETURNS TABLE (part regclass, name text, key name, bytes bigint, fresh boolean) LANGUAGE sql STABLE AS $$
    SELECT p.part, format('%I.%I', c.relnamespace::regnamespace, c.relname), (SELECT k.relname FROM pg_class k WHERE k.oid = i.indexrelid),
        pg_total_relation_size(c.oid), f.fresh
    FROM (VALUES (1, 'keytide_key_days'), (2, 'hourly_stats'), (3, 'daily_logs')) t (place, name)
    CROSS JOIN LATERAL public.keytide_parts(t.name) p
    JOIN pg_class c ON c.oid = p.part
    JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
    CROSS JOIN LATERAL (SELECT coalesce(c.reloptions::text ~ 'fillfactor=[1-9]\d\y', false) AS fresh) f
    WHERE p.ends <= before AT TIME ZONE 'UTC' AND c.relkind = 'r' AND pg_has_role(c.relowner, 'USAGE')
      AND pg_relation_size(c.oid) > 0 AND (f.fresh OR c.oid = ANY (loose))
    ORDER BY NOT f.fresh, t.place, p.starts
$$;

-- Writes one of them anew, in order; none while somebody reads it. It takes as long as the part is large, so that
-- nothing else belongs into the same transaction.
CREATE OR REPLACE FUNCTION public.keytide_settle(part regclass, key name) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET lock_timeout = '1s' AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s SET (fillfactor = 100)', part);
    EXECUTE format('ALTER INDEX %I.%I SET (fillfactor = 100)', (SELECT c.relnamespace::regnamespace::text FROM pg_class c WHERE c.oid = part), key);
    EXECUTE format('CLUSTER %s USING %I', part, key);
    RETURN true;
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
    RETURN false;
END $$;
