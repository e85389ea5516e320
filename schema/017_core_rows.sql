-- Users and shared keys: what a batch says of them, and what other hands do.

SET client_min_messages = warning;

DO $$ BEGIN
    IF to_regtype('public.keytide_user_row') IS NULL THEN
        CREATE TYPE public.keytide_user_row AS (
            pos bigint, i uuid, a bigint, c timestamptz, add boolean, n text, nv bigint, o text, ov bigint, e boolean, ev bigint,
            r integer, rv bigint, d bigint, dv bigint, t bigint, tv bigint, m jsonb, mv bigint, ip jsonb, iv bigint, top bigint);
    END IF;
    IF to_regtype('public.keytide_share_row') IS NULL THEN
        CREATE TYPE public.keytide_share_row AS (i uuid, p text, u uuid, active boolean, a bigint, v bigint);
    END IF;
END $$;

-- One row for each user, the latest added where a batch names one twice.
CREATE OR REPLACE FUNCTION public.keytide_user_rows(list jsonb) RETURNS SETOF public.keytide_user_row
LANGUAGE sql STABLE ROWS 100 AS $$
    SELECT DISTINCT ON (r.i) r.*, greatest(r.a, r.nv, r.ov, r.ev, r.rv, r.dv, r.tv, r.mv, r.iv)
    FROM (
        SELECT l.pos, public.keytide_uuid(v -> 'i') AS i, a.a, public.keytide_date(v -> 'c') AS c,
               coalesce(v -> 'add' = 'true', false) AS add,
               public.keytide_text(v -> 'n', 500) AS n, coalesce(public.keytide_int(v -> 'nv', 0, 9223372036854775807), a.a) AS nv,
               public.keytide_text(v -> 'o', 1000) AS o, coalesce(public.keytide_int(v -> 'ov', 0, 9223372036854775807), a.a) AS ov,
               v -> 'e' IS DISTINCT FROM 'false' AS e, coalesce(public.keytide_int(v -> 'ev', 0, 9223372036854775807), a.a) AS ev,
               public.keytide_int(v -> 'r', 0, 2147483647)::integer AS r,
               coalesce(public.keytide_int(v -> 'rv', 0, 9223372036854775807), a.a) AS rv,
               public.keytide_int(v -> 'd', 0, 9223372036854775807) AS d,
               coalesce(public.keytide_int(v -> 'dv', 0, 9223372036854775807), a.a) AS dv,
               public.keytide_int(v -> 't', 0, 9223372036854775807) AS t,
               coalesce(public.keytide_int(v -> 'tv', 0, 9223372036854775807), a.a) AS tv,
               nullif(public.keytide_names(v -> 'm'), '[]') AS m,
               coalesce(public.keytide_int(v -> 'mv', 0, 9223372036854775807), a.a) AS mv,
               nullif(public.keytide_names(v -> 'ip'), '[]') AS ip,
               coalesce(public.keytide_int(v -> 'iv', 0, 9223372036854775807), a.a) AS iv
        FROM public.keytide_list(list) l
        CROSS JOIN LATERAL (SELECT coalesce(public.keytide_int(v -> 'a', 0, 9223372036854775807), 0) AS a OFFSET 0) a
        OFFSET 0
    ) AS r
    WHERE r.i IS NOT NULL
    ORDER BY r.i, r.a DESC, r.pos
$$;

CREATE OR REPLACE FUNCTION public.keytide_share_rows(list jsonb) RETURNS SETOF public.keytide_share_row
LANGUAGE sql STABLE ROWS 1000 AS $$
    SELECT DISTINCT ON (r.i) r.*
    FROM (SELECT public.keytide_uuid(v -> 'i') AS i, public.keytide_text(v -> 'p', 64) AS p, public.keytide_uuid(v -> 'u') AS u,
                 v -> 'on' IS DISTINCT FROM 'false' AS active,
                 coalesce(public.keytide_int(v -> 'a', 0, 9223372036854775807), 0) AS a, coalesce(public.keytide_int(v -> 'v', 0, 9223372036854775807), 0) AS v
          FROM public.keytide_list(list) l OFFSET 0) AS r
    WHERE r.i IS NOT NULL
    ORDER BY r.i, r.a DESC, r.v DESC
$$;

-- The version of a field, as `versions` tells it; absent: that of the row.
CREATE OR REPLACE FUNCTION public.keytide_field(versions jsonb, field text, added bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT greatest(public.keytide_int(versions -> field, 0, 9223372036854775807), added)
$$;

-- Deletions of users. Returns the positions of those from the future.
CREATE OR REPLACE FUNCTION public.keytide_apply_gone_users(list jsonb, ahead bigint) RETURNS bigint[] LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    one record;
    added bigint;
BEGIN
    FOR one IN
        SELECT public.keytide_uuid(g.v -> 'id') AS id, max(public.keytide_int(g.v -> 'v', 0, 9223372036854775807)) AS v
        FROM public.keytide_list(list) g
        WHERE g.v ->> 't' = 'user' AND public.keytide_int(g.v -> 'v', 0, 9223372036854775807) <= ahead
          AND public.keytide_uuid(g.v -> 'id') IS NOT NULL
        GROUP BY 1 ORDER BY 1
    LOOP
        SELECT u.added_v INTO added FROM public.users u WHERE u.id = one.id FOR UPDATE;
        CONTINUE WHEN FOUND AND one.v <= added;
        DELETE FROM public.users u WHERE u.id = one.id;
        PERFORM public.keytide_bury('core', 'user', one.id::text, one.v);
    END LOOP;
    RETURN ARRAY(SELECT pos FROM public.keytide_list(list)
                 WHERE public.keytide_int(v -> 'v', 0, 9223372036854775807) > ahead ORDER BY pos);
END $$;

-- Users: each field by its own version. Returns the positions of those that were deleted.
CREATE OR REPLACE FUNCTION public.keytide_apply_users(list public.keytide_user_row[], ahead bigint) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    made uuid[] := '{}';
BEGIN
    PERFORM 1 FROM public.users u WHERE u.id = ANY (ARRAY(SELECT r.i FROM unnest(list) r)) ORDER BY u.id FOR UPDATE;
    WITH made AS (
        INSERT INTO public.users (id, name, note, enabled, requests_per_minute, requests_per_day, tokens_per_day, allowed_models,
                                  allowed_addresses, created_at, added_v, versions, state_xid)
        SELECT r.i, r.n, r.o, r.e, r.r, r.d, r.t, r.m, r.ip, coalesce(r.c, now()), r.a,
            jsonb_strip_nulls(jsonb_build_object(
                'n', CASE WHEN r.nv > r.a THEN r.nv END, 'o', CASE WHEN r.ov > r.a THEN r.ov END,
                'e', CASE WHEN r.ev > r.a THEN r.ev END, 'r', CASE WHEN r.rv > r.a THEN r.rv END,
                'd', CASE WHEN r.dv > r.a THEN r.dv END, 't', CASE WHEN r.tv > r.a THEN r.tv END,
                'm', CASE WHEN r.mv > r.a THEN r.mv END, 'i', CASE WHEN r.iv > r.a THEN r.iv END)),
            pg_current_xact_id()
        FROM unnest(list) r
        LEFT JOIN public.keytide_tombstones t ON t.stream = 'core' AND t.kind = 'user' AND t.id = r.i::text
        WHERE r.add AND r.top <= ahead AND r.a > coalesce(t.version, -1)
          AND NOT EXISTS (SELECT 1 FROM public.users c WHERE c.id = r.i)
        ORDER BY r.i
        ON CONFLICT (id) DO NOTHING RETURNING id
    ) SELECT coalesce(array_agg(id), '{}') INTO made FROM made;
    DELETE FROM public.keytide_tombstones t
    WHERE t.stream = 'core' AND t.kind = 'user' AND t.id = ANY (made::text[]);

    UPDATE public.users t
    SET name = n.n, note = n.o, enabled = n.e, requests_per_minute = n.r, requests_per_day = n.d, tokens_per_day = n.t,
        allowed_models = n.m, allowed_addresses = n.ip, created_at = n.c, added_v = n.added, versions = n.versions,
        state_xid = pg_current_xact_id()
    FROM (
        SELECT c.id, p.added, CASE WHEN r.a > c.added_v THEN coalesce(r.c, c.created_at) ELSE c.created_at END AS c,
            CASE WHEN r.nv > w.n THEN r.n ELSE c.name END AS n, CASE WHEN r.ov > w.o THEN r.o ELSE c.note END AS o,
            CASE WHEN r.ev > w.e THEN r.e ELSE coalesce(c.enabled, true) END AS e,
            CASE WHEN r.rv > w.r THEN r.r ELSE c.requests_per_minute END AS r,
            CASE WHEN r.dv > w.d THEN r.d ELSE c.requests_per_day END AS d,
            CASE WHEN r.tv > w.t THEN r.t ELSE c.tokens_per_day END AS t,
            CASE WHEN r.mv > w.m THEN r.m ELSE c.allowed_models END AS m,
            CASE WHEN r.iv > w.i THEN r.ip ELSE c.allowed_addresses END AS ip,
            jsonb_strip_nulls(jsonb_build_object(
                'n', nullif(greatest(r.nv, w.n, p.added), p.added), 'o', nullif(greatest(r.ov, w.o, p.added), p.added),
                'e', nullif(greatest(r.ev, w.e, p.added), p.added), 'r', nullif(greatest(r.rv, w.r, p.added), p.added),
                'd', nullif(greatest(r.dv, w.d, p.added), p.added), 't', nullif(greatest(r.tv, w.t, p.added), p.added),
                'm', nullif(greatest(r.mv, w.m, p.added), p.added), 'i', nullif(greatest(r.iv, w.i, p.added), p.added))) AS versions
        FROM unnest(list) r
        JOIN public.users c ON c.id = r.i
        CROSS JOIN LATERAL (SELECT greatest(c.added_v, r.a) AS added) p
        CROSS JOIN LATERAL (
            SELECT public.keytide_field(c.versions, 'n', c.added_v) AS n, public.keytide_field(c.versions, 'o', c.added_v) AS o,
                   public.keytide_field(c.versions, 'e', c.added_v) AS e, public.keytide_field(c.versions, 'r', c.added_v) AS r,
                   public.keytide_field(c.versions, 'd', c.added_v) AS d, public.keytide_field(c.versions, 't', c.added_v) AS t,
                   public.keytide_field(c.versions, 'm', c.added_v) AS m, public.keytide_field(c.versions, 'i', c.added_v) AS i
        ) w
        WHERE r.top <= ahead AND r.i <> ALL (made)
    ) n
    WHERE t.id = n.id
      AND (t.added_v, t.versions, t.name, t.note, coalesce(t.enabled, true), t.requests_per_minute, t.requests_per_day,
           t.tokens_per_day, t.allowed_models, t.allowed_addresses)
          IS DISTINCT FROM (n.added, n.versions, n.n, n.o, n.e, n.r, n.d, n.t, n.m, n.ip);

    RETURN ARRAY(
        SELECT r.pos FROM unnest(list) r
        JOIN public.keytide_tombstones t ON t.stream = 'core' AND t.kind = 'user' AND t.id = r.i::text AND t.version >= r.a
        WHERE r.top <= ahead AND NOT EXISTS (SELECT 1 FROM public.users u WHERE u.id = r.i) ORDER BY r.pos);
END $$;

-- A date as JSON has it; what is no date is none.
CREATE OR REPLACE FUNCTION public.keytide_time(value text) RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF value ~ '^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?Z$' AND value >= '0001' THEN
        RETURN value::timestamptz;
    END IF;
    IF value ~ '^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?)? ?(Z|[+-]\d\d(:?\d\d)?)?$' THEN
        RETURN (value || CASE WHEN value ~ '(Z|[T ].*[+-]\d\d(:?\d\d)?)$' THEN '' ELSE 'Z' END)::timestamptz;
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION public.keytide_iso(at timestamptz) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;

-- A row for every key that a batch speaks of, with the counts that were kept of it, all locked in one order: whatever else
-- there is of a key is changed under this.
CREATE OR REPLACE FUNCTION public.keytide_lock_shares(ids uuid[]) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    made uuid[];
    one uuid;
BEGIN
    WITH made AS (
        -- As long as they will be, so that they fit into their page when they are counted for.
        INSERT INTO public.shared_keys (id, usage_stats, is_active, created_at, baseline, stats_xid)
        SELECT i.id, '{"total_usage_count": 0, "usage_count_today": 0, "last_used_at": null, "active_users_today": 0, "success_rate_7d": 0, "avg_daily_usage_7d": 0}', true, now(), 0, pg_current_xact_id() FROM unnest(ids) AS i (id)
        WHERE NOT EXISTS (SELECT 1 FROM public.shared_keys k WHERE k.id = i.id) ORDER BY i.id
        ON CONFLICT (id) DO NOTHING RETURNING id
    ) SELECT coalesce(array_agg(id ORDER BY id), '{}') INTO made FROM made;
    PERFORM 1 FROM public.shared_keys k WHERE k.id = ANY (ids) ORDER BY k.id FOR UPDATE;
    FOREACH one IN ARRAY made LOOP
        PERFORM public.keytide_restore_share(one);
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION public.keytide_restore_share(of_id uuid) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    was public.keytide_retired;
    writer text := coalesce(current_setting('keytide.writer', true), '');
BEGIN
    IF NOT EXISTS (SELECT 1 FROM public.keytide_retired r WHERE r.stream = 'core' AND r.kind = 'key' AND r.id = of_id::text) THEN
        RETURN;
    END IF;
    was := public.keytide_unretire('core', 'key', of_id::text);
    IF was.id IS NULL THEN RETURN; END IF;
    PERFORM set_config('keytide.writer', 'on', true);
    UPDATE public.shared_keys k
    SET success_count = public.keytide_plus(k.success_count, was.success_count),
        failure_count = public.keytide_plus(k.failure_count, was.failure_count),
        other_count = public.keytide_plus(k.other_count, was.total_requests - was.success_count - was.failure_count),
        baseline = public.keytide_plus(k.baseline, was.prompt_tokens), last_used = greatest(k.last_used, was.last_used),
        stats_xid = pg_current_xact_id()
    WHERE k.id = of_id;
    PERFORM set_config('keytide.writer', writer, true);
END $$;

CREATE OR REPLACE FUNCTION public.keytide_apply_shares(list public.keytide_share_row[]) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    -- A deletion ends all that was said of the key before, however late; of a row that somebody else has made nobody knows
    -- since when it is there.
    UPDATE public.shared_keys k SET provider = r.p, user_id = r.u, is_active = r.active, share_a = r.a, share_v = r.v
    FROM unnest(list) r
    WHERE k.id = r.i AND r.a >= k.share_a AND (r.v > k.share_v OR k.share_a > 0 AND r.a > k.share_a);
END $$;

-- What other hands do.

CREATE OR REPLACE FUNCTION public.keytide_users_write() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    gone bigint;
    next bigint;
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.id IS DISTINCT FROM OLD.id THEN
        PERFORM public.keytide_bury('core', 'user', OLD.id::text, public.keytide_next(OLD.added_v));
    END IF;
    IF TG_OP = 'INSERT' OR NEW.id IS DISTINCT FROM OLD.id THEN
        DELETE FROM public.keytide_tombstones t WHERE t.stream = 'core' AND t.kind = 'user' AND t.id = NEW.id::text
        RETURNING t.version INTO gone;
        NEW.added_v := public.keytide_next(gone);
        NEW.versions := '{}';
        NEW.enabled := coalesce(NEW.enabled, true);
        NEW.created_at := coalesce(NEW.created_at, now());
        NEW.state_xid := pg_current_xact_id();
        RETURN NEW;
    END IF;
    -- Stamps are ours alone.
    NEW.added_v := OLD.added_v; NEW.versions := OLD.versions; NEW.state_xid := OLD.state_xid;
    IF NEW IS NOT DISTINCT FROM OLD THEN RETURN NEW; END IF;
    SELECT public.keytide_next(max(public.keytide_field(OLD.versions, f, OLD.added_v))) INTO next
    FROM unnest('{n,o,e,r,d,t,m,i}'::text[]) f;
    NEW.versions := OLD.versions || jsonb_strip_nulls(jsonb_build_object(
        'n', CASE WHEN NEW.name IS DISTINCT FROM OLD.name THEN next END,
        'o', CASE WHEN NEW.note IS DISTINCT FROM OLD.note THEN next END,
        'e', CASE WHEN NEW.enabled IS DISTINCT FROM OLD.enabled THEN next END,
        'r', CASE WHEN NEW.requests_per_minute IS DISTINCT FROM OLD.requests_per_minute THEN next END,
        'd', CASE WHEN NEW.requests_per_day IS DISTINCT FROM OLD.requests_per_day THEN next END,
        't', CASE WHEN NEW.tokens_per_day IS DISTINCT FROM OLD.tokens_per_day THEN next END,
        'm', CASE WHEN NEW.allowed_models IS DISTINCT FROM OLD.allowed_models THEN next END,
        'i', CASE WHEN NEW.allowed_addresses IS DISTINCT FROM OLD.allowed_addresses THEN next END));
    NEW.state_xid := pg_current_xact_id();
    RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION public.keytide_users_delete() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM public.keytide_bury('core', 'user', OLD.id::text, public.keytide_next(OLD.added_v));
        RETURN OLD;
    END IF;
    PERFORM public.keytide_bury('core', 'user', u.id::text, public.keytide_next(u.added_v)) FROM public.users u;
    RETURN NULL;
END $$;

-- The six figures are keytide's; who writes a higher total has counted or migrated something, and that is kept.
CREATE OR REPLACE FUNCTION public.keytide_shares_write() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    told bigint := public.keytide_int(NEW.usage_stats -> 'total_usage_count', 0, 1000000000000000);
    used timestamptz := public.keytide_time(NEW.usage_stats ->> 'last_used_at');
    had bigint;
    was public.keytide_retired;
    figures constant text[] := '{total_usage_count,usage_count_today,last_used_at,active_users_today,success_rate_7d,avg_daily_usage_7d}';
BEGIN
    IF TG_OP = 'INSERT' THEN
        -- As the sum of two versions.
        NEW.share_v := 2 * public.keytide_version();
        NEW.baseline := coalesce(nullif(NEW.baseline, 0), told, 0);
        NEW.last_used := greatest(NEW.last_used, used);
        was := public.keytide_unretire('core', 'key', NEW.id::text);
        NEW.success_count := public.keytide_plus(NEW.success_count, was.success_count);
        NEW.failure_count := public.keytide_plus(NEW.failure_count, was.failure_count);
        NEW.other_count := public.keytide_plus(NEW.other_count, was.total_requests - was.success_count - was.failure_count);
        NEW.baseline := public.keytide_plus(NEW.baseline, was.prompt_tokens);
        NEW.last_used := greatest(NEW.last_used, was.last_used);
        NEW.stats_xid := pg_current_xact_id();
        RETURN NEW;
    END IF;
    NEW.id := OLD.id; NEW.share_a := OLD.share_a; NEW.share_v := OLD.share_v; NEW.stats_xid := OLD.stats_xid; NEW.stats_day := OLD.stats_day;
    IF NEW IS NOT DISTINCT FROM OLD THEN RETURN NEW; END IF;
    IF (NEW.provider, NEW.user_id, NEW.is_active) IS DISTINCT FROM (OLD.provider, OLD.user_id, OLD.is_active) THEN
        NEW.share_v := public.keytide_next(OLD.share_v);
    END IF;
    IF NEW.usage_stats IS DISTINCT FROM OLD.usage_stats
        OR (NEW.success_count, NEW.failure_count, NEW.other_count, NEW.baseline, NEW.last_used)
           IS DISTINCT FROM (OLD.success_count, OLD.failure_count, OLD.other_count, OLD.baseline, OLD.last_used) THEN
        had := public.keytide_total_used(OLD.success_count, OLD.failure_count, OLD.other_count, OLD.baseline, OLD.usage_stats);
        IF NEW.success_count < OLD.success_count OR NEW.failure_count < OLD.failure_count OR NEW.other_count < OLD.other_count
            OR NEW.baseline < OLD.baseline OR told < had AND NEW.usage_stats IS DISTINCT FROM OLD.usage_stats THEN
            PERFORM public.keytide_report('counter_lowered', TG_TABLE_NAME);
        END IF;
        NEW.success_count := greatest(NEW.success_count, OLD.success_count);
        NEW.failure_count := greatest(NEW.failure_count, OLD.failure_count);
        NEW.other_count := greatest(NEW.other_count, OLD.other_count);
        NEW.baseline := greatest(NEW.baseline, OLD.baseline);
        IF told > had AND NEW.usage_stats IS DISTINCT FROM OLD.usage_stats THEN
            NEW.baseline := public.keytide_plus(coalesce(NEW.baseline, had), told - had);
        END IF;
        NEW.last_used := greatest(NEW.last_used, OLD.last_used, used);
        NEW.usage_stats := (CASE WHEN jsonb_typeof(NEW.usage_stats) = 'object' THEN NEW.usage_stats ELSE '{}' END - figures)
            || coalesce((SELECT jsonb_object_agg(e.key, e.value)
                         FROM jsonb_each(CASE WHEN jsonb_typeof(OLD.usage_stats) = 'object' THEN OLD.usage_stats ELSE '{}' END) e
                         WHERE e.key = ANY (figures)), '{}')
            || jsonb_build_object(
                'total_usage_count', public.keytide_total_used(NEW.success_count, NEW.failure_count, NEW.other_count, NEW.baseline, NULL),
                'last_used_at', public.keytide_iso(NEW.last_used));
        NEW.stats_xid := pg_current_xact_id();
    END IF;
    RETURN NEW;
END $$;

-- All uses of a key; of a row that was there before the schema, what its figures said.
CREATE OR REPLACE FUNCTION public.keytide_total_used(s bigint, f bigint, o bigint, baseline bigint, figures jsonb) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT public.keytide_plus(public.keytide_plus(s, f), public.keytide_plus(o, coalesce(
        baseline, public.keytide_int(figures -> 'total_usage_count', 0, 1000000000000000), 0)))
$$;

-- The counts of a key stay, and are given back when its row is made again.
CREATE OR REPLACE FUNCTION public.keytide_shares_delete() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    one record;
BEGIN
    FOR one IN SELECT * FROM public.shared_keys k WHERE TG_OP = 'TRUNCATE' OR k.id = OLD.id ORDER BY k.id LOOP
        PERFORM public.keytide_retire('core', 'key', one.id::text,
            one.success_count + one.failure_count + one.other_count, one.success_count, one.failure_count,
            public.keytide_total_used(0, 0, 0, one.baseline, one.usage_stats), 0, one.last_used, NULL, NULL);
    END LOOP;
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD END;
END $$;

CREATE OR REPLACE FUNCTION public.keytide_days_write() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        NEW.stats_xid := OLD.stats_xid;
        IF NEW IS NOT DISTINCT FROM OLD THEN RETURN NEW; END IF;
    END IF;
    NEW.stats_xid := pg_current_xact_id();
    RETURN NEW;
END $$;

-- Makes what depends on what is there already. A table of another make stays as it is.
CREATE OR REPLACE FUNCTION public.keytide_install_core() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    one record;
    part record;
BEGIN
    FOR one IN
        SELECT u.part, c.oid::regclass AS rel, c.relkind FROM public.keytide_core_uniques() u
        JOIN pg_class c ON c.relname = u.part AND c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
        -- Nothing is added to what could not be used all the same.
        WHERE c.relkind = CASE WHEN u.part IN ('users', 'shared_keys', 'monthly_logs') THEN 'r' ELSE 'p' END
          AND NOT EXISTS (
              SELECT 1 FROM public.keytide_core_columns() k
              LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = k.name AND NOT a.attisdropped
              WHERE k.part = u.part AND (a.attname IS NULL AND k.name = ANY (u.columns)
                 OR split_part(format_type(a.atttypid, NULL), '(', 1) <> ALL (k.types)))
          AND EXISTS (
              SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL
              AND u.columns = ARRAY(SELECT a.attname::text FROM pg_attribute a
                  WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey::smallint[]) ORDER BY 1))
          AND NOT EXISTS (SELECT 1 FROM public.keytide_obstacles() o
                          WHERE o.what LIKE format('%%for %s.%%', u.part) OR o.what LIKE format('table %s without%%', u.part))
    LOOP
        CASE one.part
        WHEN 'users' THEN
            ALTER TABLE public.users
                ADD COLUMN IF NOT EXISTS name text,
                ADD COLUMN IF NOT EXISTS note text,
                ADD COLUMN IF NOT EXISTS enabled boolean DEFAULT true,
                ADD COLUMN IF NOT EXISTS requests_per_minute integer,
                ADD COLUMN IF NOT EXISTS requests_per_day bigint,
                ADD COLUMN IF NOT EXISTS tokens_per_day bigint,
                ADD COLUMN IF NOT EXISTS allowed_models jsonb,
                ADD COLUMN IF NOT EXISTS allowed_addresses jsonb,
                ADD COLUMN IF NOT EXISTS created_at timestamptz DEFAULT now(),
                ADD COLUMN IF NOT EXISTS added_v bigint NOT NULL DEFAULT 0,
                ADD COLUMN IF NOT EXISTS versions jsonb NOT NULL DEFAULT '{}',
                ADD COLUMN IF NOT EXISTS state_xid xid8 NOT NULL DEFAULT '0';
            CREATE INDEX IF NOT EXISTS keytide_users_state ON public.users (state_xid);
        WHEN 'shared_keys' THEN
            ALTER TABLE public.shared_keys
                ADD COLUMN IF NOT EXISTS provider text,
                ADD COLUMN IF NOT EXISTS user_id uuid,
                ADD COLUMN IF NOT EXISTS is_active boolean DEFAULT true,
                ADD COLUMN IF NOT EXISTS usage_stats jsonb DEFAULT '{}',
                ADD COLUMN IF NOT EXISTS created_at timestamptz DEFAULT now(),
                ADD COLUMN IF NOT EXISTS share_a bigint NOT NULL DEFAULT 0,
                ADD COLUMN IF NOT EXISTS share_v bigint NOT NULL DEFAULT 0,
                ADD COLUMN IF NOT EXISTS success_count bigint NOT NULL DEFAULT 0,
                ADD COLUMN IF NOT EXISTS failure_count bigint NOT NULL DEFAULT 0,
                ADD COLUMN IF NOT EXISTS other_count bigint NOT NULL DEFAULT 0,
                ADD COLUMN IF NOT EXISTS last_used timestamptz,
                -- What was used before keytide counted; empty until the row is touched: then its figures say so.
                ADD COLUMN IF NOT EXISTS baseline bigint,
                -- The day for which the figures hold; empty: they hold until the key is used.
                ADD COLUMN IF NOT EXISTS stats_day integer,
                ADD COLUMN IF NOT EXISTS stats_xid xid8 NOT NULL DEFAULT '0';
            CREATE INDEX IF NOT EXISTS idx_shared_keys_active ON public.shared_keys (is_active) WHERE is_active = true;
        WHEN 'daily_logs' THEN
            ALTER TABLE public.daily_logs ADD COLUMN IF NOT EXISTS stats_xid xid8 NOT NULL DEFAULT '0';
        WHEN 'hourly_stats' THEN
            ALTER TABLE public.hourly_stats
                ADD COLUMN IF NOT EXISTS failed integer NOT NULL DEFAULT 0,
                ADD COLUMN IF NOT EXISTS response_ms bigint NOT NULL DEFAULT 0,
                ADD COLUMN IF NOT EXISTS responses integer NOT NULL DEFAULT 0,
                ADD COLUMN IF NOT EXISTS stats_xid xid8 NOT NULL DEFAULT '0';
        WHEN 'security_events' THEN
            -- Of all rows: a predicate with now() cannot be indexed. Its parts are months.
            CREATE INDEX IF NOT EXISTS idx_security_events_recent ON public.security_events (created_at);
        ELSE
            NULL;
        END CASE;
        -- Who has written policies has decided who may see what.
        IF NOT EXISTS (SELECT 1 FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
                       WHERE p.polrelid = one.rel AND c.relrowsecurity) THEN
            PERFORM public.keytide_close(one.rel);
        END IF;
        FOR part IN SELECT * FROM public.keytide_core_triggers() g WHERE g.part = one.part LOOP
            EXECUTE format('DROP TRIGGER IF EXISTS %I ON public.%I', part.name, part.part);
            EXECUTE format(
                'CREATE TRIGGER %I %s ON public.%I %s WHEN (pg_catalog.current_setting(''keytide.writer'', true) '
                'IS DISTINCT FROM ''on'') EXECUTE FUNCTION public.%I()', part.name, part.event, part.part,
                CASE WHEN part.event LIKE '%TRUNCATE' THEN 'FOR EACH STATEMENT' ELSE 'FOR EACH ROW' END, part.call);
        END LOOP;
    END LOOP;
    PERFORM public.keytide_parts_ahead();
    INSERT INTO public.keytide_reports (kind, table_name)
    VALUES ('late', 'daily_logs'), ('late', 'hourly_stats'), ('late', 'keytide_key_days'), ('late', 'security_events'),
           ('late', 'key_usage_logs'), ('late', 'keytide_user_sets'), ('counter_lowered', 'shared_keys'), ('unreadable', 'core')
    ON CONFLICT DO NOTHING;
    INSERT INTO public.keytide_reports (kind, table_name)
    SELECT k.kind, t.name FROM unnest('{no_partition,locked,not_owner}'::text[]) AS k (kind),
        unnest('{daily_logs,hourly_stats,keytide_key_days,security_events,key_usage_logs}'::text[]) AS t (name)
    ON CONFLICT DO NOTHING;
END $$;
