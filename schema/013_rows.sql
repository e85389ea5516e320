-- Which database this is, and the rows of a batch as they are read.

SET client_min_messages = warning;

-- Which database this is.
CREATE OR REPLACE FUNCTION public.keytide_greeting() RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'hub', jsonb_build_object(
            'id', s.hub_id,
            'system', (SELECT system_identifier::text FROM pg_control_system()),
            'timeline', (SELECT timeline_id FROM pg_control_checkpoint())),
        'schema', s.schema_version,
        'now', public.keytide_ms(clock_timestamp()),
        'zone', public.keytide_zone(),
        'rung', s.rung,
        'was', coalesce((SELECT jsonb_agg(jsonb_build_object('id', l.hub_id, 'system', l.system, 'timeline', l.timeline)
                                          ORDER BY l.adopted_at, l.hub_id)
                         FROM public.keytide_lineage l), '[]'),
        -- Of the database, not of this transaction: PostgREST calls a STABLE function in one that is read-only.
        'read_only', pg_is_in_recovery() OR current_setting('default_transaction_read_only') = 'on')
    FROM public.keytide_settings s
$$;

-- Whether this is the database that is named, or has been. Of this one the timeline does not matter: whoever pushes
-- compares what was applied.
CREATE OR REPLACE FUNCTION public.keytide_is_hub(hub jsonb) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT 1 FROM public.keytide_settings s
                   WHERE s.hub_id::text = hub ->> 'id'
                     AND (SELECT system_identifier::text FROM pg_control_system()) = hub ->> 'system')
        OR EXISTS (SELECT 1 FROM public.keytide_lineage l
                   WHERE l.hub_id::text = hub ->> 'id' AND l.system = hub ->> 'system' AND l.timeline::text = hub ->> 'timeline')
$$;

-- The rows of a batch, read without trust: what is no number, date or text is absent, what is out of bounds is
-- moved to the bound. Positions count from 0.

CREATE OR REPLACE FUNCTION public.keytide_list(list jsonb) RETURNS TABLE (pos bigint, v jsonb)
LANGUAGE sql IMMUTABLE ROWS 1000 AS $$
    SELECT l.pos - 1, l.v
    FROM jsonb_array_elements(CASE WHEN jsonb_typeof(list) = 'array' THEN list ELSE '[]' END) WITH ORDINALITY AS l (v, pos)
$$;

-- The texts of a list; NULL for none, which means all. What is no list of texts names nothing that there is: whoever wrote
-- it wanted to restrict something.
CREATE OR REPLACE FUNCTION public.keytide_names(list jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN list IS NULL OR jsonb_typeof(list) = 'null' THEN NULL
        WHEN jsonb_typeof(list) = 'array' THEN coalesce(
            (SELECT jsonb_agg(v) FROM jsonb_array_elements(list) v WHERE jsonb_typeof(v) = 'string'),
            CASE WHEN jsonb_array_length(list) > 0 THEN '[""]'::jsonb END)
        ELSE '[""]' END
$$;

-- Reading a row costs more than most of what is done with it, so a batch's rows are read once, into arrays of these.
DO $$ BEGIN
    -- Of a keytide that knew less of keys and tokens; what uses them is made again below.
    IF NOT EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass('public.keytide_key_row') AND attname = 'ow') THEN
        DROP TYPE IF EXISTS public.keytide_key_row CASCADE;
        DROP TYPE IF EXISTS public.keytide_token_row CASCADE;
    END IF;
    IF to_regtype('public.keytide_key_row') IS NULL THEN
        -- `id` is the digest of a key that may be made, `top` the latest version in the row.
        CREATE TYPE public.keytide_key_row AS (
            pos bigint, k text, a bigint, c timestamptz, add boolean, u text, uv bigint, n text, nv bigint, x timestamptz,
            xv bigint, w integer, wv bigint, e boolean, ev bigint, d timestamptz, dv bigint, he bigint, hf timestamptz,
            hc text, hn integer, ha integer, hs integer, hv boolean, ow uuid, owv bigint, id text, top bigint);
    END IF;
    IF to_regtype('public.keytide_token_row') IS NULL THEN
        CREATE TYPE public.keytide_token_row AS (
            pos bigint, k text, a bigint, c timestamptz, add boolean, n text, nv bigint, x timestamptz, xv bigint, m jsonb,
            mv bigint, r integer, rv bigint, us uuid, usv bigint, rd bigint, rdv bigint, td bigint, tdv bigint, ad jsonb,
            adv bigint, id text, top bigint);
    END IF;
    IF to_regtype('public.keytide_sum_row') IS NULL THEN
        CREATE TYPE public.keytide_sum_row AS (
            pos bigint, id text, h bigint, s bigint, f bigint, o bigint, p bigint, q bigint, lu timestamptz,
            ls timestamptz, lf timestamptz);
    END IF;
END $$;

CREATE OR REPLACE FUNCTION public.keytide_key_rows(list jsonb) RETURNS SETOF public.keytide_key_row
LANGUAGE sql STABLE ROWS 1000 AS $$
    SELECT r.*, CASE WHEN r.add THEN public.keytide_digest(r.k) END,
           greatest(r.a, r.uv, r.nv, r.xv, r.wv, r.ev, r.dv, r.he, r.owv)
    FROM (
        SELECT l.pos, public.keytide_text(v -> 'k', 2000) AS k, a.a, public.keytide_date(v -> 'c') AS c,
               coalesce(v -> 'add' = 'true', false) AS add, public.keytide_text(v -> 'u', 1000) AS u,
               coalesce(public.keytide_int(v -> 'uv', 0, 9223372036854775807), a.a) AS uv,
               public.keytide_text(v -> 'n', 1000) AS n, coalesce(public.keytide_int(v -> 'nv', 0, 9223372036854775807), a.a) AS nv,
               public.keytide_date(v -> 'x') AS x, coalesce(public.keytide_int(v -> 'xv', 0, 9223372036854775807), a.a) AS xv,
               coalesce(public.keytide_int(v -> 'w', 1, 65535)::integer, 1) AS w,
               coalesce(public.keytide_int(v -> 'wv', 0, 9223372036854775807), a.a) AS wv,
               v -> 'e' IS DISTINCT FROM 'false' AS e,
               coalesce(public.keytide_int(v -> 'ev', 0, 9223372036854775807), a.a) AS ev,
               public.keytide_date(v -> 'd') AS d, coalesce(public.keytide_int(v -> 'dv', 0, 9223372036854775807), a.a) AS dv,
               coalesce(public.keytide_int(h.h -> 'e', 0, 9223372036854775807), a.a) AS he, public.keytide_date(h.h -> 'f') AS hf,
               CASE WHEN public.keytide_cause(h.h ->> 'c') > 0 THEN h.h ->> 'c' END AS hc,
               coalesce(public.keytide_int(h.h -> 'n', 0, 2147483647)::integer, 0) AS hn,
               coalesce(public.keytide_int(h.h -> 'a', 0, 2147483647)::integer, 0) AS ha,
               coalesce(public.keytide_int(h.h -> 's', 0, 2147483647)::integer, 0) AS hs, coalesce(h.h -> 'v' = 'true', false) AS hv,
               public.keytide_uuid(v -> 'ow') AS ow, coalesce(public.keytide_int(v -> 'owv', 0, 9223372036854775807), a.a) AS owv
        FROM public.keytide_list(list) l
        CROSS JOIN LATERAL (SELECT coalesce(public.keytide_int(v -> 'a', 0, 9223372036854775807), 0) AS a OFFSET 0) a
        CROSS JOIN LATERAL (SELECT CASE WHEN jsonb_typeof(v -> 'h') = 'object' THEN v -> 'h' END AS h OFFSET 0) h
        OFFSET 0
    ) AS r
$$;

CREATE OR REPLACE FUNCTION public.keytide_token_rows(list jsonb) RETURNS SETOF public.keytide_token_row
LANGUAGE sql STABLE ROWS 1000 AS $$
    SELECT r.*, CASE WHEN r.add THEN public.keytide_digest(r.k) END,
           greatest(r.a, r.nv, r.xv, r.mv, r.rv, r.usv, r.rdv, r.tdv, r.adv)
    FROM (
        SELECT l.pos, public.keytide_text(v -> 'k', 2000) AS k, a.a, public.keytide_date(v -> 'c') AS c,
               coalesce(v -> 'add' = 'true', false) AS add, public.keytide_text(v -> 'n', 1000) AS n,
               coalesce(public.keytide_int(v -> 'nv', 0, 9223372036854775807), a.a) AS nv,
               public.keytide_date(v -> 'x') AS x, coalesce(public.keytide_int(v -> 'xv', 0, 9223372036854775807), a.a) AS xv,
               CASE WHEN jsonb_typeof(v -> 'm') = 'array' THEN nullif(v -> 'm', '[]') END AS m,
               coalesce(public.keytide_int(v -> 'mv', 0, 9223372036854775807), a.a) AS mv,
               public.keytide_int(v -> 'r', 0, 2147483647)::integer AS r,
               coalesce(public.keytide_int(v -> 'rv', 0, 9223372036854775807), a.a) AS rv,
               public.keytide_uuid(v -> 'us') AS us, coalesce(public.keytide_int(v -> 'usv', 0, 9223372036854775807), a.a) AS usv,
               public.keytide_int(v -> 'rd', 0, 9223372036854775807) AS rd,
               coalesce(public.keytide_int(v -> 'rdv', 0, 9223372036854775807), a.a) AS rdv,
               public.keytide_int(v -> 'td', 0, 9223372036854775807) AS td,
               coalesce(public.keytide_int(v -> 'tdv', 0, 9223372036854775807), a.a) AS tdv,
               CASE WHEN jsonb_typeof(v -> 'ad') = 'array' THEN nullif(v -> 'ad', '[]') END AS ad,
               coalesce(public.keytide_int(v -> 'adv', 0, 9223372036854775807), a.a) AS adv
        FROM public.keytide_list(list) l
        CROSS JOIN LATERAL (SELECT coalesce(public.keytide_int(v -> 'a', 0, 9223372036854775807), 0) AS a OFFSET 0) a
        OFFSET 0
    ) AS r
$$;

-- Rows of counters, one for each `id` (and hour), summed where a batch names one twice. What one row adds is bounded,
-- so that no sum can overflow.
-- In plpgsql, which plans this once for all lists of a session.
CREATE OR REPLACE FUNCTION public.keytide_sums(list jsonb, name text, most integer) RETURNS public.keytide_sum_row[]
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF jsonb_typeof(list) IS DISTINCT FROM 'array' THEN RETURN '{}'; END IF;
    RETURN ARRAY(
        SELECT ROW(min(r.pos), r.id, r.h, sum(r.s)::bigint, sum(r.f)::bigint, sum(r.o)::bigint, sum(r.p)::bigint,
               sum(r.q)::bigint, max(r.lu), max(r.ls), max(r.lf))::public.keytide_sum_row
        FROM (
            SELECT l.pos, coalesce(public.keytide_text(v -> name, most), '') AS id,
                   public.keytide_int(v -> 'h', 0, 4294967295) AS h,
                   coalesce(public.keytide_int(v -> 's', 0, 1000000000000000), 0) AS s,
                   coalesce(public.keytide_int(v -> 'f', 0, 1000000000000000), 0) AS f,
                   coalesce(public.keytide_int(v -> 'o', 0, 1000000000000000), 0) AS o,
                   coalesce(public.keytide_int(v -> 'p', 0, 1000000000000000), 0) AS p,
                   coalesce(public.keytide_int(v -> 'q', 0, 1000000000000000), 0) AS q,
                   public.keytide_date(v -> 'lu') AS lu, public.keytide_date(v -> 'ls') AS ls, public.keytide_date(v -> 'lf') AS lf
            FROM public.keytide_list(list) l
        ) AS r
        GROUP BY r.id, r.h
    );
END $$;

-- What a counter becomes: more by what was counted, or (when a hub is made again) at least what was known.
CREATE OR REPLACE FUNCTION public.keytide_more(had bigint, more bigint, raise boolean) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN raise THEN greatest(coalesce(had, 0), more) ELSE public.keytide_plus(had, more) END
$$;

-- As instances read a row: of one from before the triggers the total may be less than what succeeded and failed, and what
-- else is counted would vanish in the difference.
CREATE OR REPLACE FUNCTION public.keytide_total(
    had bigint, had_s bigint, had_f bigint, s bigint, f bigint, o bigint, raise boolean
) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN raise
        THEN greatest(coalesce(had_s, 0), s) + greatest(coalesce(had_f, 0), f)
            + greatest(coalesce(had, 0) - coalesce(had_s, 0) - coalesce(had_f, 0), o)
        ELSE public.keytide_plus(greatest(coalesce(had, 0), public.keytide_plus(had_s, had_f)), s + f + o) END
$$;
