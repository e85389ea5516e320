-- The counters of the core: days of users and tokens, hours and days of keys, who used them, and a key's figures.

SET client_min_messages = warning;

DO $$ BEGIN
    IF to_regtype('public.keytide_tally_row') IS NULL THEN
        CREATE TYPE public.keytide_tally_row AS (
            pos bigint, t text, i uuid, n bigint, s bigint, f bigint, o bigint, p bigint, q bigint, lu timestamptz);
    END IF;
    IF to_regtype('public.keytide_set_row') IS NULL THEN
        CREATE TYPE public.keytide_set_row AS (
            pos bigint, t text, i uuid, n bigint, users uuid[], keys text[], more boolean, k text, at timestamptz);
    END IF;
    -- A day of a user, as `daily_logs` tells it: conversations, API calls, uploads; calls by how they ended, tokens; what
    -- went wrong; the keys used, and the last of them with its time.
    IF to_regtype('public.keytide_day_row') IS NULL THEN
        CREATE TYPE public.keytide_day_row AS (
            i uuid, n bigint, conversations bigint, calls bigint, uploads bigint, s bigint, f bigint, o bigint, p bigint, q bigint,
            lu timestamptz, limits bigint, auth bigint, server bigint, keys text[], more boolean, k text, at timestamptz);
    END IF;
END $$;

-- Rows of tallies, one for each kind, id and period.
CREATE OR REPLACE FUNCTION public.keytide_tally_rows(list jsonb) RETURNS public.keytide_tally_row[]
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF jsonb_typeof(list) IS DISTINCT FROM 'array' THEN RETURN '{}'; END IF;
    RETURN ARRAY(
        SELECT ROW(min(r.pos), r.t, r.i, r.n, sum(r.s)::bigint, sum(r.f)::bigint, sum(r.o)::bigint, sum(r.p)::bigint,
                   sum(r.q)::bigint, max(r.lu))::public.keytide_tally_row
        FROM (
            SELECT l.pos, v ->> 't' AS t, public.keytide_uuid(v -> 'i') AS i,
                   CASE WHEN v ->> 't' = 'kt' THEN 0 ELSE coalesce(public.keytide_int(v -> 'n', 0, 4294967295), 0) END AS n,
                   coalesce(public.keytide_int(v -> 's', 0, 1000000000000000), 0) AS s,
                   coalesce(public.keytide_int(v -> 'f', 0, 1000000000000000), 0) AS f,
                   coalesce(public.keytide_int(v -> 'o', 0, 1000000000000000), 0) AS o,
                   coalesce(public.keytide_int(v -> 'p', 0, 1000000000000000), 0) AS p,
                   coalesce(public.keytide_int(v -> 'q', 0, 1000000000000000), 0) AS q,
                   public.keytide_date(v -> 'lu') AS lu
            FROM public.keytide_list(list) l
        ) AS r
        WHERE r.i IS NOT NULL AND r.t IN ('uu', 'uc', 'ue', 'td', 'kd', 'kh', 'kt')
        GROUP BY r.t, r.i, r.n
    );
END $$;

-- Sets, likewise: of users (`kh`, `kd`), or of the short names of keys (`uk`).
CREATE OR REPLACE FUNCTION public.keytide_set_rows(list jsonb) RETURNS public.keytide_set_row[]
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF jsonb_typeof(list) IS DISTINCT FROM 'array' THEN RETURN '{}'; END IF;
    RETURN ARRAY(
        SELECT ROW(min(r.pos), r.t, r.i, r.n,
                   coalesce(array_agg(DISTINCT public.keytide_uuid(m.v)) FILTER (WHERE r.t <> 'uk' AND public.keytide_uuid(m.v) IS NOT NULL), '{}'),
                   coalesce(array_agg(DISTINCT (m.v #>> '{}') COLLATE "C") FILTER (WHERE r.t = 'uk' AND m.v #>> '{}' ~ '^[0-9a-f]{8}$'), '{}'),
                   bool_or(r.more), (array_agg(r.k ORDER BY r.at DESC NULLS LAST, r.k COLLATE "C" DESC NULLS LAST))[1],
                   max(r.at))::public.keytide_set_row
        FROM (
            SELECT l.pos, v ->> 't' AS t, public.keytide_uuid(v -> 'i') AS i,
                   coalesce(public.keytide_int(v -> 'n', 0, 4294967295), 0) AS n, v -> 'm' AS m,
                   coalesce(v -> 'more' = 'true', false) AS more,
                   CASE WHEN v ->> 'k' ~ '^[0-9a-f]{8}$' THEN v ->> 'k' END AS k,
                   CASE WHEN v ->> 'k' ~ '^[0-9a-f]{8}$' THEN public.keytide_date(v -> 'at') END AS at
            FROM public.keytide_list(list) l
        ) AS r
        LEFT JOIN LATERAL public.keytide_list(r.m) m ON true
        WHERE r.i IS NOT NULL AND r.t IN ('kh', 'kd', 'uk')
        GROUP BY r.t, r.i, r.n
    );
END $$;

CREATE OR REPLACE FUNCTION public.keytide_union(a uuid[], b uuid[]) RETURNS uuid[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ARRAY(SELECT DISTINCT m FROM unnest(a || b) m ORDER BY m)
$$;

CREATE OR REPLACE FUNCTION public.keytide_int4(value bigint) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT least(value, 2147483647)::integer
$$;

CREATE OR REPLACE FUNCTION public.keytide_average(sum bigint, many bigint) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN many > 0 THEN least(round(sum::numeric / many), 2147483647)::integer END
$$;

-- What a day's log says, whoever wrote it: what is no number is 0. The older shape, `shared_key_usage` as counts by
-- key, tells nothing of how they ended.
CREATE OR REPLACE FUNCTION public.keytide_log_read(log jsonb) RETURNS public.keytide_day_row LANGUAGE plpgsql STABLE AS $$
DECLARE
    r public.keytide_day_row;
    u jsonb := log -> 'shared_key_usage';
    e jsonb := log -> 'error_stats';
    most constant bigint := 4000000000000000000;
BEGIN
    r.conversations := coalesce(public.keytide_int(log -> 'conversation_count', 0, most), 0);
    r.calls := coalesce(public.keytide_int(log -> 'api_call_count', 0, most), 0);
    r.uploads := coalesce(public.keytide_int(log -> 'upload_count', 0, most), 0);
    r.limits := coalesce(public.keytide_int(e -> 'rate_limit_hits', 0, most), 0);
    r.auth := coalesce(public.keytide_int(e -> 'auth_failures', 0, most), 0);
    r.server := coalesce(public.keytide_int(e -> 'server_errors', 0, most), 0);
    IF jsonb_typeof(u) = 'object' AND NOT u ? 'total_calls' THEN
        SELECT 0, 0, coalesce(least(sum(public.keytide_int(c.value, 0, 1000000000000000)), most), 0)::bigint,
               (array_agg(c.key ORDER BY c.key COLLATE "C"))[1:32], count(*) > 32
        INTO r.s, r.f, r.o, r.keys, r.more
        FROM jsonb_each(u) c WHERE jsonb_typeof(c.value) = 'number';
        r.lu := public.keytide_time(log ->> 'last_usage_at');
    ELSE
        r.s := coalesce(public.keytide_int(u -> 'successful_calls', 0, most), 0);
        r.f := coalesce(public.keytide_int(u -> 'failed_calls', 0, most), 0);
        -- Others who count know the total.
        r.o := greatest(coalesce(public.keytide_int(u -> 'other_calls', 0, most), 0),
                        coalesce(public.keytide_int(u -> 'total_calls', 0, most), 0) - r.s - r.f);
        r.p := public.keytide_int(u -> 'prompt_tokens', 0, most);
        r.q := public.keytide_int(u -> 'completion_tokens', 0, most);
        r.lu := public.keytide_time(u ->> 'last_usage_at');
        r.more := coalesce(u -> 'keys_used_more' = 'true', false);
        r.k := public.keytide_text(u -> 'last_key_used', 100);
        r.at := coalesce(public.keytide_time(u ->> 'last_key_at'), r.lu);
        IF jsonb_typeof(u -> 'keys_used') = 'array' THEN
            SELECT array_agg(k ORDER BY k COLLATE "C") INTO r.keys
            FROM (SELECT DISTINCT public.keytide_text(v, 100) AS k FROM public.keytide_list(u -> 'keys_used')) k WHERE k IS NOT NULL;
        END IF;
    END IF;
    r.p := coalesce(r.p, 0); r.q := coalesce(r.q, 0);
    r.keys := coalesce(r.keys, '{}');
    RETURN r;
END $$;

-- Two parts of a day together; `raise` as of counters.
CREATE OR REPLACE FUNCTION public.keytide_log_more(had public.keytide_day_row, more public.keytide_day_row, raise boolean)
RETURNS public.keytide_day_row LANGUAGE plpgsql STABLE AS $$
DECLARE
    r public.keytide_day_row := had;
BEGIN
    r.conversations := public.keytide_more(had.conversations, more.conversations, raise);
    r.calls := public.keytide_more(had.calls, more.calls, raise);
    r.uploads := public.keytide_more(had.uploads, more.uploads, raise);
    r.s := public.keytide_more(had.s, more.s, raise);
    r.f := public.keytide_more(had.f, more.f, raise);
    r.o := public.keytide_more(had.o, more.o, raise);
    r.p := public.keytide_more(had.p, more.p, raise);
    r.q := public.keytide_more(had.q, more.q, raise);
    r.limits := public.keytide_more(had.limits, more.limits, raise);
    r.auth := public.keytide_more(had.auth, more.auth, raise);
    r.server := public.keytide_more(had.server, more.server, raise);
    r.lu := greatest(had.lu, more.lu);
    IF cardinality(more.keys) > 0 THEN
        -- The smallest of all are the same in whatever order they come.
        r.keys := ARRAY(SELECT DISTINCT k COLLATE "C" FROM unnest(had.keys || more.keys) k ORDER BY 1);
        r.more := had.more OR more.more OR cardinality(r.keys) > 32;
        r.keys := r.keys[1:32];
    ELSE
        r.more := had.more OR coalesce(more.more, false);
    END IF;
    IF more.k IS NOT NULL AND (had.k IS NULL OR (coalesce(more.at, '-infinity'), more.k COLLATE "C") > (coalesce(had.at, '-infinity'), had.k)) THEN
        r.k := more.k;
        r.at := more.at;
    END IF;
    RETURN r;
END $$;

-- The plan's shape, with what others have written beside it.
CREATE OR REPLACE FUNCTION public.keytide_log_write(log jsonb, r public.keytide_day_row) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
DECLARE
    u jsonb := log -> 'shared_key_usage';
    e jsonb := log -> 'error_stats';
BEGIN
    IF jsonb_typeof(log) IS DISTINCT FROM 'object' THEN log := '{}'; END IF;
    IF jsonb_typeof(u) = 'object' AND NOT u ? 'total_calls' THEN log := log - 'last_usage_at'; END IF;
    IF jsonb_typeof(u) IS DISTINCT FROM 'object' OR NOT u ? 'total_calls' THEN u := '{}'; END IF;
    IF jsonb_typeof(e) IS DISTINCT FROM 'object' THEN e := '{}'; END IF;
    RETURN log || jsonb_build_object(
        'conversation_count', r.conversations, 'api_call_count', r.calls, 'upload_count', r.uploads,
        -- Without what there is nothing more to tell of.
        'shared_key_usage', (u - '{other_calls,keys_used_more,prompt_tokens,completion_tokens,last_key_at}'::text[]) || jsonb_build_object(
            'total_calls', public.keytide_plus(public.keytide_plus(r.s, r.f), r.o), 'successful_calls', r.s, 'failed_calls', r.f,
            'keys_used', to_jsonb(r.keys), 'last_key_used', r.k, 'last_usage_at', public.keytide_iso(r.lu))
            -- Ours, where there is something to tell.
            || jsonb_strip_nulls(jsonb_build_object(
                'other_calls', nullif(r.o, 0), 'keys_used_more', nullif(r.more, false), 'prompt_tokens', nullif(r.p, 0),
                'completion_tokens', nullif(r.q, 0), 'last_key_at', CASE WHEN r.at IS DISTINCT FROM r.lu THEN public.keytide_iso(r.at) END)),
        'error_stats', e || jsonb_build_object('rate_limit_hits', r.limits, 'auth_failures', r.auth, 'server_errors', r.server));
END $$;

-- Days of users: what a batch's lists say of one are one change of its row.
CREATE OR REPLACE FUNCTION public.keytide_apply_days(list public.keytide_day_row[], raise boolean) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    one record;
    done uuid[];
BEGIN
    -- Day by day: one part of the table at a time.
    FOR one IN SELECT r.n, array_agg(r ORDER BY r.i) AS rows FROM unnest(list) r GROUP BY r.n ORDER BY r.n LOOP
        EXECUTE format('SELECT 1 FROM public.daily_logs t WHERE t.user_id = ANY ($1) AND t.date = %L ORDER BY t.user_id FOR UPDATE',
                       public.keytide_day(one.n)) USING ARRAY(SELECT r.i FROM unnest(one.rows) r);
        EXECUTE format($q$
            WITH done AS (
                UPDATE public.daily_logs t
                SET log_data = public.keytide_log_write(t.log_data, public.keytide_log_more(public.keytide_log_read(t.log_data), r, $2)),
                    stats_xid = pg_current_xact_id()
                FROM unnest($1) r WHERE t.user_id = r.i AND t.date = %L RETURNING t.user_id
            ) SELECT coalesce(array_agg(user_id), '{}') FROM done$q$, public.keytide_day(one.n)) INTO done USING one.rows, raise;
        CONTINUE WHEN cardinality(done) = cardinality(one.rows);
        EXECUTE format($q$
            INSERT INTO public.daily_logs AS t (user_id, date, log_data, stats_xid)
            SELECT r.i, %1$L, public.keytide_log_write('{}', public.keytide_log_more(public.keytide_log_read('{}'), r, false)),
                   pg_current_xact_id()
            FROM unnest($1) r WHERE NOT EXISTS (SELECT 1 FROM unnest($2) AS d (id) WHERE d.id = r.i) ORDER BY r.i
            ON CONFLICT (user_id, date) DO UPDATE
            SET log_data = public.keytide_log_write(t.log_data, public.keytide_log_more(
                    public.keytide_log_read(t.log_data), public.keytide_log_read(excluded.log_data), $3)),
                stats_xid = excluded.stats_xid$q$, public.keytide_day(one.n)) USING one.rows, done, raise;
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION public.keytide_apply_token_days(list public.keytide_tally_row[], raise boolean) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    done bigint[];
BEGIN
    PERFORM 1 FROM public.keytide_token_days t
    WHERE (t.day, t.token_id) IN (SELECT r.n::integer, r.i FROM unnest(list) r) ORDER BY t.day, t.token_id FOR UPDATE;
    WITH done AS (
        UPDATE public.keytide_token_days t
        SET success = public.keytide_more(t.success, r.s, raise), failure = public.keytide_more(t.failure, r.f, raise),
            other = public.keytide_more(t.other, r.o, raise), prompt_tokens = public.keytide_more(t.prompt_tokens, r.p, raise),
            completion_tokens = public.keytide_more(t.completion_tokens, r.q, raise), last_used = greatest(t.last_used, r.lu),
            stats_xid = pg_current_xact_id()
        FROM unnest(list) r WHERE t.day = r.n::integer AND t.token_id = r.i RETURNING r.pos
    ) SELECT coalesce(array_agg(pos), '{}') INTO done FROM done;
    INSERT INTO public.keytide_token_days AS t (day, token_id, success, failure, other, prompt_tokens, completion_tokens, last_used, stats_xid)
    SELECT r.n, r.i, r.s, r.f, r.o, r.p, r.q, r.lu, pg_current_xact_id()
    FROM unnest(list) r WHERE NOT EXISTS (SELECT 1 FROM unnest(done) AS d (pos) WHERE d.pos = r.pos) ORDER BY r.n, r.i
    ON CONFLICT (day, token_id) DO UPDATE
    SET success = public.keytide_more(t.success, excluded.success, raise), failure = public.keytide_more(t.failure, excluded.failure, raise),
        other = public.keytide_more(t.other, excluded.other, raise),
        prompt_tokens = public.keytide_more(t.prompt_tokens, excluded.prompt_tokens, raise),
        completion_tokens = public.keytide_more(t.completion_tokens, excluded.completion_tokens, raise),
        last_used = greatest(t.last_used, excluded.last_used), stats_xid = excluded.stats_xid;
END $$;

-- Who used keys. These rows, and those of the days and hours of keys, are changed by whoever holds the key's row of
-- shared_keys: nobody else makes them meanwhile.
CREATE OR REPLACE FUNCTION public.keytide_apply_user_sets(list public.keytide_set_row[]) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO public.keytide_user_sets (kind, n, id, members, stats_xid)
    SELECT r.t, r.n, r.i, r.users, pg_current_xact_id() FROM unnest(list) r
    WHERE NOT EXISTS (SELECT 1 FROM public.keytide_user_sets t WHERE t.kind = r.t AND t.n = r.n AND t.id = r.i)
    ORDER BY r.t, r.n, r.i ON CONFLICT DO NOTHING;
    UPDATE public.keytide_user_sets t SET members = public.keytide_union(t.members, r.users), stats_xid = pg_current_xact_id()
    FROM unnest(list) r WHERE t.kind = r.t AND t.n = r.n AND t.id = r.i AND NOT t.members @> r.users;
$$;

-- What a set counts stands beside the counters and outlives it.
CREATE OR REPLACE FUNCTION public.keytide_apply_key_days(list public.keytide_tally_row[], raise boolean) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    one record;
    done bigint[];
BEGIN
    -- Day by day: one part of the table at a time.
    FOR one IN SELECT r.n, array_agg(r) AS rows FROM unnest(list) r GROUP BY r.n ORDER BY r.n LOOP
        EXECUTE format($q$
            WITH done AS (
                UPDATE public.keytide_key_days t
                SET success = public.keytide_more(t.success, r.s, $2), failure = public.keytide_more(t.failure, r.f, $2),
                    other = public.keytide_more(t.other, r.o, $2), last_used = greatest(t.last_used, r.lu),
                    users = greatest(t.users, cardinality(m.members)), stats_xid = pg_current_xact_id()
                FROM unnest($1) r LEFT JOIN public.keytide_user_sets m ON m.kind = 'kd' AND m.n = r.n AND m.id = r.i
                WHERE t.day = %s AND t.key_id = r.i RETURNING r.pos
            ) SELECT coalesce(array_agg(pos), '{}') FROM done$q$, one.n) INTO done USING one.rows, raise;
        CONTINUE WHEN cardinality(done) = cardinality(one.rows);
        EXECUTE format($q$
            INSERT INTO public.keytide_key_days (day, key_id, success, failure, other, last_used, users, stats_xid)
            SELECT %s, r.i, r.s, r.f, r.o, r.lu, coalesce(cardinality(m.members), 0), pg_current_xact_id()
            FROM unnest($1) r LEFT JOIN public.keytide_user_sets m ON m.kind = 'kd' AND m.n = r.n AND m.id = r.i
            WHERE NOT EXISTS (SELECT 1 FROM unnest($2) AS d (pos) WHERE d.pos = r.pos) ORDER BY r.i$q$, one.n) USING one.rows, done;
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION public.keytide_hour_at(hour bigint) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT 'epoch'::timestamptz + hour * '1 hour'::interval
$$;

CREATE OR REPLACE FUNCTION public.keytide_apply_key_hours(list public.keytide_tally_row[], raise boolean) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    one record;
    done bigint[];
BEGIN
    -- Hour by hour: one part of the table at a time.
    FOR one IN SELECT r.n, array_agg(r) AS rows FROM unnest(list) r GROUP BY r.n ORDER BY r.n LOOP
        EXECUTE format($q$
            WITH done AS (
                UPDATE public.hourly_stats t
                SET successful_requests = public.keytide_int4(public.keytide_more(t.successful_requests, r.s, $2)),
                    failed = public.keytide_int4(public.keytide_more(t.failed, r.f, $2)),
                    total_requests = public.keytide_int4(public.keytide_total(
                        t.total_requests, t.successful_requests, t.failed, r.s, r.f, r.o, $2)),
                    unique_users = greatest(t.unique_users, cardinality(m.members)),
                    response_ms = public.keytide_more(t.response_ms, r.p, $2),
                    responses = public.keytide_int4(public.keytide_more(t.responses, r.q, $2)),
                    avg_response_time = public.keytide_average(
                        public.keytide_more(t.response_ms, r.p, $2), public.keytide_more(t.responses, r.q, $2)),
                    stats_xid = pg_current_xact_id()
                FROM unnest($1) r LEFT JOIN public.keytide_user_sets m ON m.kind = 'kh' AND m.n = r.n AND m.id = r.i
                WHERE t.hour_start = %L AND t.shared_key_id = r.i RETURNING r.pos
            ) SELECT coalesce(array_agg(pos), '{}') FROM done$q$, public.keytide_hour_at(one.n)) INTO done USING one.rows, raise;
        CONTINUE WHEN cardinality(done) = cardinality(one.rows);
        EXECUTE format($q$
            INSERT INTO public.hourly_stats (hour_start, shared_key_id, total_requests, successful_requests, failed, unique_users,
                                             response_ms, responses, avg_response_time, stats_xid)
            SELECT %1$L, r.i, public.keytide_int4(r.s + r.f + r.o), public.keytide_int4(r.s), public.keytide_int4(r.f),
                   coalesce(cardinality(m.members), 0), r.p, public.keytide_int4(r.q), public.keytide_average(r.p, r.q),
                   pg_current_xact_id()
            FROM unnest($1) r LEFT JOIN public.keytide_user_sets m ON m.kind = 'kh' AND m.n = r.n AND m.id = r.i
            WHERE NOT EXISTS (SELECT 1 FROM unnest($2) AS d (pos) WHERE d.pos = r.pos) ORDER BY r.i$q$,
            public.keytide_hour_at(one.n)) USING one.rows, done;
    END LOOP;
END $$;

-- A key's totals, and its figures of today and of these seven days.
CREATE OR REPLACE FUNCTION public.keytide_apply_shared(ids uuid[], list public.keytide_tally_row[], raise boolean) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    today integer := public.keytide_today();
BEGIN
    UPDATE public.shared_keys k
    SET success_count = n.s, failure_count = n.f, other_count = n.o, baseline = n.b, last_used = n.lu,
        usage_stats = CASE WHEN jsonb_typeof(k.usage_stats) = 'object' THEN k.usage_stats ELSE '{}' END || jsonb_build_object(
            'total_usage_count', public.keytide_total_used(n.s, n.f, n.o, n.b, NULL), 'usage_count_today', n.since_midnight,
            'last_used_at', public.keytide_iso(n.lu), 'active_users_today', n.users,
            'success_rate_7d', trim_scale(CASE WHEN n.week > 0 THEN round(n.week_s / n.week, 4) ELSE 0 END),
            'avg_daily_usage_7d', trim_scale(round(n.week / 7, 2))),
        stats_day = CASE WHEN n.week > 0 OR n.users > 0 THEN today END, stats_xid = pg_current_xact_id()
    FROM (
        SELECT c.id, public.keytide_more(c.success_count, coalesce(r.s, 0), raise) AS s,
            public.keytide_more(c.failure_count, coalesce(r.f, 0), raise) AS f,
            public.keytide_more(c.other_count, coalesce(r.o, 0), raise) AS o,
            public.keytide_more(public.keytide_total_used(0, 0, 0, c.baseline, c.usage_stats), coalesce(r.p, 0), raise) AS b,
            greatest(c.last_used, r.lu, CASE WHEN c.baseline IS NULL THEN public.keytide_time(c.usage_stats ->> 'last_used_at') END) AS lu,
            w.*
        FROM unnest(ids) AS i (id)
        JOIN public.shared_keys c ON c.id = i.id
        LEFT JOIN unnest(list) r ON r.i = i.id
        CROSS JOIN LATERAL (
            SELECT coalesce(sum(d.success + d.failure + d.other) FILTER (WHERE d.day = today), 0)::bigint AS since_midnight,
                coalesce(max(d.users) FILTER (WHERE d.day = today), 0) AS users,
                coalesce(sum(d.success::numeric + d.failure + d.other), 0) AS week, coalesce(sum(d.success), 0) AS week_s
            FROM generate_series(today - 6, today) AS g (day)
            JOIN public.keytide_key_days d ON d.day = g.day AND d.key_id = c.id
        ) w
    ) n
    WHERE k.id = n.id;
END $$;
