-- Batches: keytide_push applies one, once, whatever its rows hold.

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
        'was', coalesce((SELECT jsonb_agg(jsonb_build_object('id', l.hub_id, 'system', l.system, 'timeline', l.timeline)
                                          ORDER BY l.adopted_at, l.hub_id)
                         FROM public.keytide_lineage l), '[]'),
        'read_only', current_setting('transaction_read_only') = 'on')
    FROM public.keytide_settings s
$$;

-- The rows of a batch, read without trust: what is no number, date or text is absent, what is out of bounds is
-- moved to the bound. Positions count from 0.

CREATE OR REPLACE FUNCTION public.keytide_list(list jsonb) RETURNS TABLE (pos bigint, v jsonb)
LANGUAGE sql IMMUTABLE ROWS 1000 AS $$
    SELECT l.pos - 1, l.v
    FROM jsonb_array_elements(CASE WHEN jsonb_typeof(list) = 'array' THEN list ELSE '[]' END) WITH ORDINALITY AS l (v, pos)
$$;

-- `top` is the latest version in the row.
CREATE OR REPLACE FUNCTION public.keytide_key_rows(list jsonb) RETURNS TABLE (
    pos bigint, k text, a bigint, c timestamptz, add boolean, u text, uv bigint, n text, nv bigint, x timestamptz,
    xv bigint, w integer, wv bigint, e boolean, ev bigint, d timestamptz, dv bigint, he bigint, hf timestamptz, hc text,
    hn integer, ha integer, hs integer, hv boolean, top bigint
) LANGUAGE sql STABLE ROWS 1000 AS $$
    SELECT r.*, greatest(r.a, r.uv, r.nv, r.xv, r.wv, r.ev, r.dv, r.he)
    FROM (
        SELECT l.pos, public.keytide_text(v -> 'k', 2000), a.a, public.keytide_date(v -> 'c'), v -> 'add' = 'true',
               public.keytide_text(v -> 'u', 1000), coalesce(public.keytide_int(v -> 'uv', 0, 9223372036854775807), a.a),
               public.keytide_text(v -> 'n', 1000), coalesce(public.keytide_int(v -> 'nv', 0, 9223372036854775807), a.a),
               public.keytide_date(v -> 'x'), coalesce(public.keytide_int(v -> 'xv', 0, 9223372036854775807), a.a),
               coalesce(public.keytide_int(v -> 'w', 1, 65535)::integer, 1),
               coalesce(public.keytide_int(v -> 'wv', 0, 9223372036854775807), a.a),
               v -> 'e' IS DISTINCT FROM 'false', coalesce(public.keytide_int(v -> 'ev', 0, 9223372036854775807), a.a),
               public.keytide_date(v -> 'd'), coalesce(public.keytide_int(v -> 'dv', 0, 9223372036854775807), a.a),
               coalesce(public.keytide_int(h.h -> 'e', 0, 9223372036854775807), a.a), public.keytide_date(h.h -> 'f'),
               CASE WHEN public.keytide_cause(h.h ->> 'c') > 0 THEN h.h ->> 'c' END,
               coalesce(public.keytide_int(h.h -> 'n', 0, 2147483647)::integer, 0),
               coalesce(public.keytide_int(h.h -> 'a', 0, 2147483647)::integer, 0),
               coalesce(public.keytide_int(h.h -> 's', 0, 2147483647)::integer, 0), coalesce(h.h -> 'v' = 'true', false)
        FROM public.keytide_list(list) l
        CROSS JOIN LATERAL (SELECT coalesce(public.keytide_int(v -> 'a', 0, 9223372036854775807), 0) AS a) a
        CROSS JOIN LATERAL (SELECT CASE WHEN jsonb_typeof(v -> 'h') = 'object' THEN v -> 'h' END AS h) h
    ) AS r (pos, k, a, c, add, u, uv, n, nv, x, xv, w, wv, e, ev, d, dv, he, hf, hc, hn, ha, hs, hv)
$$;

CREATE OR REPLACE FUNCTION public.keytide_token_rows(list jsonb) RETURNS TABLE (
    pos bigint, k text, a bigint, c timestamptz, add boolean, n text, nv bigint, x timestamptz, xv bigint, m jsonb,
    mv bigint, r integer, rv bigint, top bigint
) LANGUAGE sql STABLE ROWS 1000 AS $$
    SELECT r.*, greatest(r.a, r.nv, r.xv, r.mv, r.rv)
    FROM (
        SELECT l.pos, public.keytide_text(v -> 'k', 2000), a.a, public.keytide_date(v -> 'c'), v -> 'add' = 'true',
               public.keytide_text(v -> 'n', 1000), coalesce(public.keytide_int(v -> 'nv', 0, 9223372036854775807), a.a),
               public.keytide_date(v -> 'x'), coalesce(public.keytide_int(v -> 'xv', 0, 9223372036854775807), a.a),
               CASE WHEN jsonb_typeof(v -> 'm') = 'array' THEN nullif(v -> 'm', '[]') END,
               coalesce(public.keytide_int(v -> 'mv', 0, 9223372036854775807), a.a),
               public.keytide_int(v -> 'r', 0, 2147483647)::integer,
               coalesce(public.keytide_int(v -> 'rv', 0, 9223372036854775807), a.a)
        FROM public.keytide_list(list) l
        CROSS JOIN LATERAL (SELECT coalesce(public.keytide_int(v -> 'a', 0, 9223372036854775807), 0) AS a) a
    ) AS r (pos, k, a, c, add, n, nv, x, xv, m, mv, r, rv)
$$;

-- Rows of counters, one for each `id` (and hour), summed where a batch names one twice. What one row adds is bounded,
-- so that no sum can overflow.
CREATE OR REPLACE FUNCTION public.keytide_sum_rows(list jsonb, name text, most integer) RETURNS TABLE (
    pos bigint, id text, h bigint, s bigint, f bigint, o bigint, p bigint, q bigint, lu timestamptz, ls timestamptz,
    lf timestamptz
) LANGUAGE sql STABLE ROWS 1000 AS $$
    SELECT min(r.pos), r.id, r.h, sum(r.s)::bigint, sum(r.f)::bigint, sum(r.o)::bigint, sum(r.p)::bigint,
           sum(r.q)::bigint, max(r.lu), max(r.ls), max(r.lf)
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
$$;

-- What a counter becomes: more by what was counted, or (when a hub is made again) at least what was known.
CREATE OR REPLACE FUNCTION public.keytide_more(had bigint, more bigint, raise boolean) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN raise THEN greatest(coalesce(had, 0), more) ELSE public.keytide_plus(had, more) END
$$;

CREATE OR REPLACE FUNCTION public.keytide_total(
    had bigint, had_s bigint, had_f bigint, s bigint, f bigint, o bigint, raise boolean
) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN raise
        THEN greatest(coalesce(had_s, 0), s) + greatest(coalesce(had_f, 0), f)
            + greatest(coalesce(had, 0) - coalesce(had_s, 0) - coalesce(had_f, 0), o)
        ELSE public.keytide_plus(had, s + f + o) END
$$;

-- Locks all rows that a batch touches, tables and rows always in the same order, so that batches wait for each other
-- and never in a circle.
CREATE OR REPLACE FUNCTION public.keytide_lock(stream text, batch jsonb, gone_keys text[], gone_tokens text[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    EXECUTE format($q$
        SELECT 1 FROM public.%I WHERE api_key = ANY (
            $1 || ARRAY(SELECT public.keytide_text(v -> 'k', 2000) FROM public.keytide_list($2 -> 'keys'))
               || ARRAY(SELECT r.id FROM public.keytide_sum_rows($2 -> 'key_stats', 'k', 2000) r
                        WHERE NOT EXISTS (SELECT 1 FROM public.%I s WHERE s.api_key = r.id)))
        ORDER BY api_key COLLATE "C" FOR UPDATE$q$, stream || '_keys', stream || '_key_stats') USING gone_keys, batch;
    EXECUTE format($q$
        SELECT 1 FROM public.%I WHERE token = ANY (
            $1 || ARRAY(SELECT public.keytide_text(v -> 'k', 2000) FROM public.keytide_list($2 -> 'tokens'))
               || ARRAY(SELECT public.keytide_text(v -> 'k', 2000) FROM public.keytide_list($2 -> 'token_stats')))
        ORDER BY token COLLATE "C" FOR UPDATE$q$, stream || '_client_tokens') USING gone_tokens, batch;
    EXECUTE format($q$
        SELECT 1 FROM public.%I WHERE api_key = ANY (
            $1 || ARRAY(SELECT public.keytide_text(v -> 'k', 2000) FROM public.keytide_list($2 -> 'keys'))
               || ARRAY(SELECT public.keytide_text(v -> 'k', 2000) FROM public.keytide_list($2 -> 'key_stats')))
        ORDER BY api_key COLLATE "C" FOR UPDATE$q$, stream || '_key_stats') USING gone_keys, batch;
END $$;

-- Deletions. Returns the positions of those from the future.
CREATE OR REPLACE FUNCTION public.keytide_apply_gone(stream text, list jsonb, ahead bigint) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    one record;
BEGIN
    FOR one IN EXECUTE format($q$
        SELECT g.t, g.id, g.v, k.api_key AS secret FROM (
            SELECT v ->> 't' AS t, v ->> 'id' AS id, public.keytide_int(v -> 'v', 0, 9223372036854775807) AS v
            FROM public.keytide_list($1)) g
        LEFT JOIN public.%I k ON g.t = 'key' AND public.keytide_digest(k.api_key) = g.id
        WHERE g.t = 'key' AND g.v <= $2 AND g.id ~ '^[0-9a-f]{32}$' AND (k.api_key IS NULL OR g.v > k.added_v)
        UNION ALL
        SELECT g.t, g.id, g.v, k.token FROM (
            SELECT v ->> 't' AS t, v ->> 'id' AS id, public.keytide_int(v -> 'v', 0, 9223372036854775807) AS v
            FROM public.keytide_list($1)) g
        LEFT JOIN public.%I k ON g.t = 'token' AND public.keytide_digest(k.token) = g.id
        WHERE g.t = 'token' AND g.v <= $2 AND g.id ~ '^[0-9a-f]{32}$' AND (k.token IS NULL OR g.v > k.added_v)
        ORDER BY t, id$q$, stream || '_keys', stream || '_client_tokens') USING list, ahead
    LOOP
        IF one.secret IS NOT NULL AND one.t = 'key' THEN
            PERFORM public.keytide_retire_key(stream, one.secret);
            EXECUTE format('DELETE FROM public.%I WHERE api_key = $1', stream || '_keys') USING one.secret;
        ELSIF one.secret IS NOT NULL THEN
            EXECUTE format($q$
                WITH t AS (DELETE FROM public.%I WHERE token = $2 RETURNING *)
                SELECT public.keytide_retire($1, 'token', $3, t.request_count, t.success_count, t.failure_count,
                                             t.prompt_tokens, t.completion_tokens, t.last_used, NULL, NULL) FROM t$q$,
                stream || '_client_tokens') USING stream, one.secret, one.id;
        END IF;
        PERFORM public.keytide_bury(stream, one.t, one.id, one.v);
    END LOOP;
    RETURN ARRAY(SELECT pos FROM public.keytide_list(list)
                 WHERE public.keytide_int(v -> 'v', 0, 9223372036854775807) > ahead ORDER BY pos);
END $$;

-- Keys: each field by its own version, health by its epoch. `clock` holds the positions of those from the future.
-- Returns the positions of those that are gone.
CREATE OR REPLACE FUNCTION public.keytide_apply_keys(stream text, list jsonb, ahead bigint, clock bigint[]) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    gone bigint[];
    secret text;
    installed timestamptz;
BEGIN
    SELECT installed_at INTO installed FROM public.keytide_settings;
    FOR secret IN EXECUTE format($q$
        WITH made AS (INSERT INTO public.%1$I (api_key, created_at, status, username, note, expires_at, weight, enabled, disabled_until,
            username_v, note_v, expires_v, weight_v, enabled_v, disabled_v, added_v, consecutive_failures, state_xid)
        SELECT DISTINCT ON (r.k COLLATE "C") r.k, coalesce(r.c, now()), CASE WHEN r.e THEN 'active' ELSE 'disabled' END,
            r.u, r.n, r.x, r.w, r.e, r.d,
            CASE WHEN r.uv > r.a THEN r.uv END, CASE WHEN r.nv > r.a THEN r.nv END, CASE WHEN r.xv > r.a THEN r.xv END,
            CASE WHEN r.wv > r.a THEN r.wv END, CASE WHEN r.ev > r.a THEN r.ev END, CASE WHEN r.dv > r.a THEN r.dv END,
            r.a, 0, pg_current_xact_id()
        FROM public.keytide_key_rows((SELECT jsonb_agg(v) FROM public.keytide_list($2) WHERE v -> 'add' = 'true')) r
        LEFT JOIN public.keytide_tombstones t
            ON t.stream = $1 AND t.kind = 'key' AND t.id = public.keytide_digest(r.k)
        WHERE r.add AND r.k <> '' AND octet_length(r.k) <= 2000 AND r.top <= $3 AND r.a > coalesce(t.version, -1)
            AND NOT EXISTS (SELECT 1 FROM public.%1$I c WHERE c.api_key = r.k)
        ORDER BY r.k COLLATE "C", r.a DESC
        ON CONFLICT (api_key) DO NOTHING RETURNING api_key)
        SELECT m.api_key FROM made m CROSS JOIN LATERAL (SELECT public.keytide_digest(m.api_key) AS id) d
        WHERE EXISTS (SELECT 1 FROM public.keytide_tombstones t WHERE t.stream = $1 AND t.kind = 'key' AND t.id = d.id)
           OR EXISTS (SELECT 1 FROM public.keytide_retired t WHERE t.stream = $1 AND t.kind = 'key' AND t.id = d.id)
        ORDER BY m.api_key COLLATE "C"$q$, stream || '_keys') USING stream, list, ahead
    LOOP
        PERFORM public.keytide_restore_key(stream, secret);
    END LOOP;

    EXECUTE format($q$
        UPDATE public.%1$I t
        SET added_v = n.added, username = n.u, username_v = n.uv, note = n.n, note_v = n.nv, expires_at = n.x,
            expires_v = n.xv, weight = n.w, weight_v = n.wv, enabled = n.e, enabled_v = n.ev, disabled_until = n.d,
            disabled_v = n.dv, health_epoch = n.he, failed_until = n.hf, fail_cause = n.hc, consecutive_failures = n.hn,
            auth_failures = n.ha, server_failures = n.hs, needs_verification = n.hv, status = n.status,
            state_xid = pg_current_xact_id()
        FROM (
            SELECT m.*, CASE WHEN NOT m.e THEN 'disabled' WHEN m.hv THEN 'failed' ELSE 'active' END AS status
            FROM (
                SELECT c.api_key, p.added,
                    CASE WHEN r.uv > coalesce(c.username_v, c.added_v) THEN r.u ELSE c.username END AS u,
                    nullif(greatest(r.uv, c.username_v, c.added_v, p.added), p.added) AS uv,
                    CASE WHEN r.nv > coalesce(c.note_v, c.added_v) THEN r.n ELSE c.note END AS n,
                    nullif(greatest(r.nv, c.note_v, c.added_v, p.added), p.added) AS nv,
                    CASE WHEN r.xv > coalesce(c.expires_v, c.added_v) THEN r.x ELSE p.x END AS x,
                    nullif(greatest(r.xv, c.expires_v, c.added_v, p.added), p.added) AS xv,
                    CASE WHEN r.wv > coalesce(c.weight_v, c.added_v) THEN r.w ELSE c.weight END AS w,
                    nullif(greatest(r.wv, c.weight_v, c.added_v, p.added), p.added) AS wv,
                    CASE WHEN r.ev > coalesce(c.enabled_v, c.added_v) THEN r.e ELSE p.e END AS e,
                    nullif(greatest(r.ev, c.enabled_v, c.added_v, p.added), p.added) AS ev,
                    CASE WHEN r.dv > coalesce(c.disabled_v, c.added_v) THEN r.d ELSE c.disabled_until END AS d,
                    nullif(greatest(r.dv, c.disabled_v, c.added_v, p.added), p.added) AS dv,
                    nullif(greatest(i.e, b.e), p.added) AS he,
                    CASE WHEN i.e > b.e THEN i.f WHEN i.e < b.e THEN b.f ELSE greatest(i.f, b.f) END AS hf,
                    CASE WHEN i.e > b.e THEN i.c WHEN i.e < b.e THEN b.c
                         WHEN i.f IS NOT DISTINCT FROM b.f AND public.keytide_cause(i.c) > public.keytide_cause(b.c)
                              OR i.f > b.f OR b.f IS NULL AND i.f IS NOT NULL THEN i.c ELSE b.c END AS hc,
                    CASE WHEN i.e > b.e THEN i.n WHEN i.e < b.e THEN b.n ELSE greatest(i.n, b.n) END AS hn,
                    CASE WHEN i.e > b.e THEN i.a WHEN i.e < b.e THEN b.a ELSE greatest(i.a, b.a) END AS ha,
                    CASE WHEN i.e > b.e THEN i.s WHEN i.e < b.e THEN b.s ELSE greatest(i.s, b.s) END AS hs,
                    CASE WHEN i.e > b.e THEN i.v WHEN i.e < b.e THEN b.v ELSE i.v OR b.v END AS hv
                FROM (SELECT DISTINCT ON (k) * FROM public.keytide_key_rows($1) WHERE top <= $2 ORDER BY k, a DESC) r
                JOIN public.%1$I c ON c.api_key = r.k
                -- What the row means: of one that nobody has touched since the schema came, its status says so.
                CROSS JOIN LATERAL (
                    SELECT greatest(c.added_v, r.a) AS added,
                        coalesce(c.enabled, NOT coalesce(c.status = 'disabled' AND c.disabled_until IS NULL, false)) AS e,
                        CASE WHEN c.enabled IS NULL AND c.status = 'expired' THEN coalesce(c.expires_at, $3)
                             ELSE c.expires_at END AS x,
                        CASE WHEN c.enabled IS NULL AND c.status = 'failed' THEN coalesce(c.failed_until, $3 + '1 hour'::interval)
                             ELSE c.failed_until END AS f
                ) p
                CROSS JOIN LATERAL (SELECT coalesce(c.health_epoch, c.added_v) < p.added AS yes) stale
                CROSS JOIN LATERAL (
                    SELECT CASE WHEN stale.yes THEN p.added ELSE coalesce(c.health_epoch, c.added_v) END AS e,
                        CASE WHEN NOT stale.yes THEN p.f END AS f, CASE WHEN NOT stale.yes THEN c.fail_cause END AS c,
                        CASE WHEN stale.yes THEN 0 ELSE coalesce(c.consecutive_failures, 0) END AS n,
                        CASE WHEN stale.yes THEN 0 ELSE c.auth_failures END AS a,
                        CASE WHEN stale.yes THEN 0 ELSE c.server_failures END AS s,
                        NOT stale.yes AND c.needs_verification AS v
                ) b
                CROSS JOIN LATERAL (
                    SELECT greatest(r.he, p.added) AS e, CASE WHEN r.he >= p.added THEN r.hf END AS f,
                        CASE WHEN r.he >= p.added THEN r.hc END AS c, CASE WHEN r.he >= p.added THEN r.hn ELSE 0 END AS n,
                        CASE WHEN r.he >= p.added THEN r.ha ELSE 0 END AS a,
                        CASE WHEN r.he >= p.added THEN r.hs ELSE 0 END AS s, r.he >= p.added AND r.hv AS v
                ) i
            ) m
        ) n
        WHERE t.api_key = n.api_key
          AND (t.added_v, t.username, t.username_v, t.note, t.note_v, t.expires_at, t.expires_v, t.weight, t.weight_v,
               t.enabled, t.enabled_v, t.disabled_until, t.disabled_v, coalesce(t.health_epoch, t.added_v), t.failed_until,
               t.fail_cause, coalesce(t.consecutive_failures, 0), t.auth_failures, t.server_failures, t.needs_verification)
              IS DISTINCT FROM
              (n.added, n.u, n.uv, n.n, n.nv, n.x, n.xv, n.w, n.wv, n.e, n.ev, n.d, n.dv, coalesce(n.he, n.added), n.hf,
               n.hc, n.hn, n.ha, n.hs, n.hv)$q$, stream || '_keys') USING list, ahead, installed;

    EXECUTE format($q$
        UPDATE public.%1$I s SET consecutive_failures = k.consecutive_failures
        FROM public.%2$I k
        WHERE k.api_key = s.api_key AND s.api_key IN (SELECT public.keytide_text(v -> 'k', 2000) FROM public.keytide_list($1))
          AND s.consecutive_failures IS DISTINCT FROM k.consecutive_failures$q$, stream || '_key_stats', stream || '_keys')
    USING list;

    EXECUTE format($q$
        SELECT coalesce(array_agg(r.pos ORDER BY r.pos), '{}') FROM public.keytide_list($1) r
        WHERE r.pos <> ALL ($2)
          AND NOT EXISTS (SELECT 1 FROM public.%I c WHERE c.api_key = public.keytide_text(r.v -> 'k', 2000))$q$, stream || '_keys')
    INTO gone USING list, clock;
    RETURN gone;
END $$;

-- Tokens, as keys.
CREATE OR REPLACE FUNCTION public.keytide_apply_tokens(stream text, list jsonb, ahead bigint, clock bigint[]) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    gone bigint[];
    secret text;
BEGIN
    FOR secret IN EXECUTE format($q$
        WITH made AS (INSERT INTO public.%1$I (token, created_at, name, expires_at, allowed_models, requests_per_minute, name_v,
            expires_v, models_v, rpm_v, added_v, request_count, state_xid, stats_xid)
        SELECT DISTINCT ON (r.k COLLATE "C") r.k, coalesce(r.c, now()), r.n, r.x, r.m, r.r,
            CASE WHEN r.nv > r.a THEN r.nv END, CASE WHEN r.xv > r.a THEN r.xv END, CASE WHEN r.mv > r.a THEN r.mv END,
            CASE WHEN r.rv > r.a THEN r.rv END, r.a, 0, pg_current_xact_id(), pg_current_xact_id()
        FROM public.keytide_token_rows((SELECT jsonb_agg(v) FROM public.keytide_list($2) WHERE v -> 'add' = 'true')) r
        LEFT JOIN public.keytide_tombstones t
            ON t.stream = $1 AND t.kind = 'token' AND t.id = public.keytide_digest(r.k)
        WHERE r.add AND r.k <> '' AND octet_length(r.k) <= 2000 AND r.top <= $3 AND r.a > coalesce(t.version, -1)
            AND NOT EXISTS (SELECT 1 FROM public.%1$I c WHERE c.token = r.k)
        ORDER BY r.k COLLATE "C", r.a DESC
        ON CONFLICT (token) DO NOTHING RETURNING token)
        SELECT m.token FROM made m CROSS JOIN LATERAL (SELECT public.keytide_digest(m.token) AS id) d
        WHERE EXISTS (SELECT 1 FROM public.keytide_tombstones t WHERE t.stream = $1 AND t.kind = 'token' AND t.id = d.id)
           OR EXISTS (SELECT 1 FROM public.keytide_retired t WHERE t.stream = $1 AND t.kind = 'token' AND t.id = d.id)
        ORDER BY m.token COLLATE "C"$q$, stream || '_client_tokens') USING stream, list, ahead
    LOOP
        PERFORM public.keytide_restore_token(stream, secret);
    END LOOP;

    EXECUTE format($q$
        UPDATE public.%1$I t
        SET added_v = n.added, name = n.n, name_v = n.nv, expires_at = n.x, expires_v = n.xv, allowed_models = n.m,
            models_v = n.mv, requests_per_minute = n.r, rpm_v = n.rv, state_xid = pg_current_xact_id()
        FROM (
            SELECT c.token, p.added,
                CASE WHEN r.nv > coalesce(c.name_v, c.added_v) THEN r.n ELSE c.name END AS n,
                nullif(greatest(r.nv, c.name_v, c.added_v, p.added), p.added) AS nv,
                CASE WHEN r.xv > coalesce(c.expires_v, c.added_v) THEN r.x ELSE c.expires_at END AS x,
                nullif(greatest(r.xv, c.expires_v, c.added_v, p.added), p.added) AS xv,
                CASE WHEN r.mv > coalesce(c.models_v, c.added_v) THEN r.m ELSE c.allowed_models END AS m,
                nullif(greatest(r.mv, c.models_v, c.added_v, p.added), p.added) AS mv,
                CASE WHEN r.rv > coalesce(c.rpm_v, c.added_v) THEN r.r ELSE c.requests_per_minute END AS r,
                nullif(greatest(r.rv, c.rpm_v, c.added_v, p.added), p.added) AS rv
            FROM (SELECT DISTINCT ON (k) * FROM public.keytide_token_rows($1) WHERE top <= $2 ORDER BY k, a DESC) r
            JOIN public.%1$I c ON c.token = r.k
            CROSS JOIN LATERAL (SELECT greatest(c.added_v, r.a) AS added) p
        ) n
        WHERE t.token = n.token
          AND (t.added_v, t.name, t.name_v, t.expires_at, t.expires_v, t.allowed_models, t.models_v,
               t.requests_per_minute, t.rpm_v)
              IS DISTINCT FROM (n.added, n.n, n.nv, n.x, n.xv, n.m, n.mv, n.r, n.rv)$q$, stream || '_client_tokens')
    USING list, ahead;

    EXECUTE format($q$
        SELECT coalesce(array_agg(r.pos ORDER BY r.pos), '{}') FROM public.keytide_list($1) r
        WHERE r.pos <> ALL ($2)
          AND NOT EXISTS (SELECT 1 FROM public.%I c WHERE c.token = public.keytide_text(r.v -> 'k', 2000))$q$, stream || '_client_tokens')
    INTO gone USING list, clock;
    RETURN gone;
END $$;

-- Counts of keys. Those whose key is not there go to the retired counts; returns their positions.
CREATE OR REPLACE FUNCTION public.keytide_apply_key_stats(stream text, list jsonb, raise boolean) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    gone bigint[];
    done text[];
    made text[];
BEGIN
    EXECUTE format($q$
        WITH done AS (
            UPDATE public.%I t
            SET success_count = public.keytide_more(t.success_count, r.s, $2),
                failure_count = public.keytide_more(t.failure_count, r.f, $2),
                total_requests = public.keytide_total(t.total_requests, t.success_count, t.failure_count, r.s, r.f, r.o, $2),
                success_rate = public.keytide_rate(public.keytide_more(t.success_count, r.s, $2), public.keytide_total(
                    t.total_requests, t.success_count, t.failure_count, r.s, r.f, r.o, $2)),
                last_used = greatest(t.last_used, r.lu), last_success = greatest(t.last_success, r.ls),
                last_failure = greatest(t.last_failure, r.lf), stats_xid = pg_current_xact_id()
            FROM public.keytide_sum_rows($1, 'k', 2000) r WHERE t.api_key = r.id RETURNING t.api_key
        ) SELECT coalesce(array_agg(api_key), '{}') FROM done$q$, stream || '_key_stats') INTO done USING list, raise;
    IF cardinality(done) = jsonb_array_length(list) THEN RETURN '{}'; END IF;
    EXECUTE format($q$
        WITH made AS (
            INSERT INTO public.%1$I AS t (api_key, total_requests, success_count, failure_count, success_rate, last_used,
                                        last_success, last_failure, consecutive_failures, stats_xid)
            SELECT r.id, r.s + r.f + r.o, r.s, r.f, public.keytide_rate(r.s, r.s + r.f + r.o), r.lu, r.ls, r.lf,
                   k.consecutive_failures, pg_current_xact_id()
            FROM public.keytide_sum_rows($1, 'k', 2000) r JOIN public.%2$I k ON k.api_key = r.id
            WHERE r.id <> ALL ($2) ORDER BY r.id COLLATE "C"
            ON CONFLICT (api_key) DO UPDATE
            SET success_count = public.keytide_more(t.success_count, excluded.success_count, $3),
                failure_count = public.keytide_more(t.failure_count, excluded.failure_count, $3),
                total_requests = public.keytide_more(t.total_requests, excluded.total_requests, $3),
                success_rate = public.keytide_rate(public.keytide_more(t.success_count, excluded.success_count, $3),
                                                   public.keytide_more(t.total_requests, excluded.total_requests, $3)),
                last_used = greatest(t.last_used, excluded.last_used),
                last_success = greatest(t.last_success, excluded.last_success),
                last_failure = greatest(t.last_failure, excluded.last_failure), stats_xid = excluded.stats_xid
            RETURNING t.api_key
        ) SELECT coalesce(array_agg(api_key), '{}') FROM made$q$, stream || '_key_stats', stream || '_keys')
    INTO made USING list, done, raise;
    DELETE FROM public.keytide_tombstones t
    WHERE t.stream = keytide_apply_key_stats.stream AND t.kind = 'key_stats'
      AND t.id IN (SELECT public.keytide_digest(m) FROM unnest(made) m);
    SELECT coalesce(array_agg(r.pos ORDER BY r.pos), '{}') INTO gone
    FROM public.keytide_sum_rows(list, 'k', 2000) r WHERE r.id <> ALL (done || made);
    IF NOT raise AND cardinality(gone) > 0 THEN
        PERFORM public.keytide_retire(stream, 'key', public.keytide_digest(r.id), r.s + r.f + r.o, r.s, r.f, 0, 0, r.lu,
                                      r.ls, r.lf)
        FROM (SELECT * FROM public.keytide_sum_rows(list, 'k', 2000) r WHERE r.pos = ANY (gone)
              ORDER BY public.keytide_digest(r.id)) r;
    END IF;
    RETURN gone;
END $$;

CREATE OR REPLACE FUNCTION public.keytide_apply_token_stats(stream text, list jsonb, raise boolean) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    gone bigint[];
    done text[];
BEGIN
    EXECUTE format($q$
        WITH done AS (
            UPDATE public.%I t
            SET success_count = public.keytide_more(t.success_count, r.s, $2),
                failure_count = public.keytide_more(t.failure_count, r.f, $2),
                request_count = public.keytide_total(t.request_count, t.success_count, t.failure_count, r.s, r.f, r.o, $2),
                prompt_tokens = public.keytide_more(t.prompt_tokens, r.p, $2),
                completion_tokens = public.keytide_more(t.completion_tokens, r.q, $2),
                last_used = greatest(t.last_used, r.lu), stats_xid = pg_current_xact_id()
            FROM public.keytide_sum_rows($1, 'k', 2000) r WHERE t.token = r.id RETURNING t.token
        ) SELECT coalesce(array_agg(token), '{}') FROM done$q$, stream || '_client_tokens') INTO done USING list, raise;
    SELECT coalesce(array_agg(r.pos ORDER BY r.pos), '{}') INTO gone
    FROM public.keytide_sum_rows(list, 'k', 2000) r WHERE r.id <> ALL (done);
    IF NOT raise AND cardinality(gone) > 0 THEN
        PERFORM public.keytide_retire(stream, 'token', public.keytide_digest(r.id), r.s + r.f + r.o, r.s, r.f, r.p, r.q,
                                      r.lu, NULL, NULL)
        FROM (SELECT * FROM public.keytide_sum_rows(list, 'k', 2000) r WHERE r.pos = ANY (gone)
              ORDER BY public.keytide_digest(r.id)) r;
    END IF;
    RETURN gone;
END $$;

-- Counts of models. Whatever a model is called, it has a row.
CREATE OR REPLACE FUNCTION public.keytide_apply_models(stream text, provider text, list jsonb, raise boolean) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    done bigint;
    target text := stream || '_model_stats';
BEGIN
    EXECUTE format($q$
        SELECT 1 FROM public.%I WHERE provider = $2 AND model IN (SELECT id FROM public.keytide_sum_rows($1, 'm', 500))
        ORDER BY model COLLATE "C" FOR UPDATE$q$, target) USING list, provider;
    EXECUTE format($q$
        UPDATE public.%I t
        SET success_count = public.keytide_more(t.success_count, r.s, $3),
            failure_count = public.keytide_more(t.failure_count, r.f, $3),
            total_requests = public.keytide_total(t.total_requests, t.success_count, t.failure_count, r.s, r.f, r.o, $3),
            prompt_tokens = public.keytide_more(t.prompt_tokens, r.p, $3),
            completion_tokens = public.keytide_more(t.completion_tokens, r.q, $3),
            last_used = greatest(t.last_used, r.lu), stats_xid = pg_current_xact_id()
        FROM public.keytide_sum_rows($1, 'm', 500) r WHERE t.provider = $2 AND t.model = r.id$q$, target)
    USING list, provider, raise;
    GET DIAGNOSTICS done = ROW_COUNT;
    IF done = jsonb_array_length(list) THEN RETURN; END IF;
    EXECUTE format($q$
        WITH made AS (
            INSERT INTO public.%1$I AS t (provider, model, total_requests, success_count, failure_count, prompt_tokens,
                                          completion_tokens, last_used, stats_xid)
            SELECT $2, r.id, r.s + r.f + r.o, r.s, r.f, r.p, r.q, r.lu, pg_current_xact_id()
            FROM public.keytide_sum_rows($1, 'm', 500) r
            WHERE NOT EXISTS (SELECT 1 FROM public.%1$I c WHERE c.provider = $2 AND c.model = r.id)
            ORDER BY r.id COLLATE "C"
            ON CONFLICT (provider, model) DO UPDATE
            SET success_count = public.keytide_more(t.success_count, excluded.success_count, $3),
                failure_count = public.keytide_more(t.failure_count, excluded.failure_count, $3),
                total_requests = public.keytide_more(t.total_requests, excluded.total_requests, $3),
                prompt_tokens = public.keytide_more(t.prompt_tokens, excluded.prompt_tokens, $3),
                completion_tokens = public.keytide_more(t.completion_tokens, excluded.completion_tokens, $3),
                last_used = greatest(t.last_used, excluded.last_used), stats_xid = excluded.stats_xid
            RETURNING model)
        DELETE FROM public.keytide_tombstones t USING made m
        WHERE t.stream = $4 AND t.kind = 'model' AND t.id = m.model$q$, target) USING list, provider, raise, stream;
END $$;

-- Counts of models by the hour. Returns the positions of those that are no longer kept, or lie days ahead.
CREATE OR REPLACE FUNCTION public.keytide_apply_hours(stream text, provider text, list jsonb, raise boolean) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    target text := stream || '_model_hourly';
    oldest bigint := ceil(extract(epoch FROM clock_timestamp() - '30 days'::interval) / 3600)::bigint;
    latest bigint := oldest + 32 * 24;
BEGIN
    EXECUTE format($q$
        SELECT 1 FROM public.%I t
        WHERE provider = $2 AND (hour, model) IN (
            SELECT 'epoch'::timestamptz + h * '1 hour'::interval, id FROM public.keytide_sum_rows($1, 'm', 500)
            WHERE h BETWEEN $3 AND $4)
        ORDER BY hour, model COLLATE "C" FOR UPDATE$q$, target) USING list, provider, oldest, latest;
    EXECUTE format($q$
        UPDATE public.%I t
        SET success = public.keytide_more(t.success, r.s, $3), failure = public.keytide_more(t.failure, r.f, $3),
            requests = public.keytide_total(t.requests, t.success, t.failure, r.s, r.f, r.o, $3),
            prompt_tokens = public.keytide_more(t.prompt_tokens, r.p, $3),
            completion_tokens = public.keytide_more(t.completion_tokens, r.q, $3), stats_xid = pg_current_xact_id()
        FROM public.keytide_sum_rows($1, 'm', 500) r
        WHERE r.h BETWEEN $4 AND $5 AND t.provider = $2 AND t.model = r.id
          AND t.hour = 'epoch'::timestamptz + r.h * '1 hour'::interval$q$, target)
    USING list, provider, raise, oldest, latest;
    EXECUTE format($q$
        INSERT INTO public.%1$I AS t (provider, model, hour, requests, success, failure, prompt_tokens, completion_tokens,
                                      created_at, stats_xid)
        SELECT $2, r.id, 'epoch'::timestamptz + r.h * '1 hour'::interval, r.s + r.f + r.o, r.s, r.f, r.p, r.q, now(),
               pg_current_xact_id()
        FROM public.keytide_sum_rows($1, 'm', 500) r
        WHERE r.h BETWEEN $4 AND $5 AND NOT EXISTS (
            SELECT 1 FROM public.%1$I c
            WHERE c.provider = $2 AND c.model = r.id AND c.hour = 'epoch'::timestamptz + r.h * '1 hour'::interval)
        ORDER BY r.h, r.id COLLATE "C"
        ON CONFLICT (provider, model, hour) DO UPDATE
        SET success = public.keytide_more(t.success, excluded.success, $3),
            failure = public.keytide_more(t.failure, excluded.failure, $3),
            requests = public.keytide_more(t.requests, excluded.requests, $3),
            prompt_tokens = public.keytide_more(t.prompt_tokens, excluded.prompt_tokens, $3),
            completion_tokens = public.keytide_more(t.completion_tokens, excluded.completion_tokens, $3),
            stats_xid = excluded.stats_xid$q$, target)
    USING list, provider, raise, oldest, latest;
    RETURN ARRAY(SELECT r.pos FROM public.keytide_sum_rows(list, 'm', 500) r
                 WHERE (r.h BETWEEN oldest AND latest) IS NOT TRUE ORDER BY r.pos);
END $$;

-- All requests. Last, since everybody wants this row.
CREATE OR REPLACE FUNCTION public.keytide_apply_global(stream text, list jsonb, raise boolean) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    done bigint;
BEGIN
    EXECUTE format($q$
        UPDATE public.%I t
        SET success_count = public.keytide_more(t.success_count, r.s, $2),
            failure_count = public.keytide_more(t.failure_count, r.f, $2),
            total_requests = public.keytide_total(t.total_requests, t.success_count, t.failure_count, r.s, r.f, r.o, $2),
            prompt_tokens = public.keytide_more(t.prompt_tokens, r.p, $2),
            completion_tokens = public.keytide_more(t.completion_tokens, r.q, $2),
            last_used = greatest(t.last_used, r.lu), updated_at = now(), stats_xid = pg_current_xact_id()
        FROM public.keytide_sum_rows($1, 'id', 1) r WHERE t.id = 'global'$q$, stream || '_global_stats') USING list, raise;
    GET DIAGNOSTICS done = ROW_COUNT;
    IF done > 0 THEN RETURN; END IF;
    EXECUTE format($q$
        INSERT INTO public.%I AS t (id, total_requests, success_count, failure_count, prompt_tokens, completion_tokens,
                                    last_used, updated_at, stats_xid)
        SELECT 'global', r.s + r.f + r.o, r.s, r.f, r.p, r.q, r.lu, now(), pg_current_xact_id()
        FROM public.keytide_sum_rows($1, 'id', 1) r
        ON CONFLICT (id) DO UPDATE
        SET success_count = public.keytide_more(t.success_count, excluded.success_count, $2),
            failure_count = public.keytide_more(t.failure_count, excluded.failure_count, $2),
            total_requests = public.keytide_more(t.total_requests, excluded.total_requests, $2),
            prompt_tokens = public.keytide_more(t.prompt_tokens, excluded.prompt_tokens, $2),
            completion_tokens = public.keytide_more(t.completion_tokens, excluded.completion_tokens, $2),
            last_used = greatest(t.last_used, excluded.last_used), updated_at = now(), stats_xid = excluded.stats_xid$q$,
        stream || '_global_stats') USING list, raise;
    DELETE FROM public.keytide_tombstones t
    WHERE t.stream = keytide_apply_global.stream AND t.kind = 'global' AND t.id = 'global';
END $$;

-- All rows of a batch. Returns how those were answered that were not applied as such.
CREATE OR REPLACE FUNCTION public.keytide_apply(stream text, provider text, batch jsonb, raise boolean) RETURNS jsonb
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    ahead bigint := public.keytide_version() + (300000000::bigint << 10);
    gone jsonb := '[]';
    clock jsonb := '[]';
    expired jsonb := '[]';
    gone_keys text[] := '{}';
    gone_tokens text[] := '{}';
    late bigint[];
    moves boolean;
    one text;
BEGIN
    -- Only lists of rows are read on.
    IF jsonb_typeof(batch) IS DISTINCT FROM 'object' THEN batch := '{}'; END IF;
    FOREACH one IN ARRAY '{gone,keys,tokens,key_stats,token_stats,models,hours}'::text[] LOOP
        IF jsonb_typeof(batch -> one) IS DISTINCT FROM 'array' OR batch -> one = '[]' THEN
            batch := batch - one;
        END IF;
    END LOOP;

    -- Whoever makes rows, deletes them, or counts for such as are not there, does so one after another: the counts of
    -- a key and those retired of it would else pass each other by.
    EXECUTE format($q$
        SELECT $1 ? 'gone'
            OR EXISTS (SELECT 1 FROM public.keytide_list($1 -> 'keys') WHERE v -> 'add' = 'true')
            OR EXISTS (SELECT 1 FROM public.keytide_list($1 -> 'tokens') WHERE v -> 'add' = 'true')
            OR EXISTS (SELECT 1 FROM public.keytide_list($1 -> 'key_stats') r
                       WHERE NOT EXISTS (SELECT 1 FROM public.%I k WHERE k.api_key = r.v ->> 'k'))
            OR EXISTS (SELECT 1 FROM public.keytide_list($1 -> 'token_stats') r
                       WHERE NOT EXISTS (SELECT 1 FROM public.%I k WHERE k.token = r.v ->> 'k'))$q$,
        stream || '_keys', stream || '_client_tokens') INTO moves USING batch;
    IF moves THEN
        PERFORM pg_advisory_xact_lock(hashtextextended('keytide ' || stream, 0));
    END IF;
    IF batch ? 'gone' THEN
        EXECUTE format($q$SELECT coalesce(array_agg(api_key), '{}') FROM public.%I WHERE public.keytide_digest(api_key) IN (
            SELECT v ->> 'id' FROM public.keytide_list($1) WHERE v ->> 't' = 'key')$q$, stream || '_keys')
        INTO gone_keys USING batch -> 'gone';
        EXECUTE format($q$SELECT coalesce(array_agg(token), '{}') FROM public.%I WHERE public.keytide_digest(token) IN (
            SELECT v ->> 'id' FROM public.keytide_list($1) WHERE v ->> 't' = 'token')$q$, stream || '_client_tokens')
        INTO gone_tokens USING batch -> 'gone';
    END IF;
    PERFORM public.keytide_lock(stream, batch, gone_keys, gone_tokens);

    IF batch ? 'gone' THEN
        clock := clock || public.keytide_places('gone', public.keytide_apply_gone(stream, batch -> 'gone', ahead));
    END IF;
    IF batch ? 'keys' THEN
        late := ARRAY(SELECT pos FROM public.keytide_key_rows(batch -> 'keys') WHERE top > ahead ORDER BY pos);
        clock := clock || public.keytide_places('keys', late);
        gone := gone || public.keytide_places('keys', public.keytide_apply_keys(stream, batch -> 'keys', ahead, late));
    END IF;
    IF batch ? 'tokens' THEN
        late := ARRAY(SELECT pos FROM public.keytide_token_rows(batch -> 'tokens') WHERE top > ahead ORDER BY pos);
        clock := clock || public.keytide_places('tokens', late);
        gone := gone || public.keytide_places('tokens', public.keytide_apply_tokens(stream, batch -> 'tokens', ahead, late));
    END IF;
    IF batch ? 'key_stats' THEN
        gone := gone || public.keytide_places('key_stats', public.keytide_apply_key_stats(stream, batch -> 'key_stats', raise));
    END IF;
    IF batch ? 'token_stats' THEN
        gone := gone || public.keytide_places('token_stats', public.keytide_apply_token_stats(stream, batch -> 'token_stats', raise));
    END IF;
    IF batch ? 'models' THEN
        PERFORM public.keytide_apply_models(stream, provider, batch -> 'models', raise);
    END IF;
    IF batch ? 'hours' THEN
        expired := public.keytide_places('hours', public.keytide_apply_hours(stream, provider, batch -> 'hours', raise));
    END IF;
    IF jsonb_typeof(batch -> 'global') = 'object' THEN
        PERFORM public.keytide_apply_global(stream, jsonb_build_array(batch -> 'global'), raise);
    END IF;
    RETURN jsonb_strip_nulls(jsonb_build_object(
        'gone', nullif(gone, '[]'), 'expired', nullif(expired, '[]'), 'clock', nullif(clock, '[]')));
END $$;

CREATE OR REPLACE FUNCTION public.keytide_places(list text, places bigint[]) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(jsonb_agg(jsonb_build_array(list, p) ORDER BY p), '[]') FROM unnest(places) p
$$;

CREATE OR REPLACE FUNCTION public.keytide_push(request jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    me uuid;
    to_stream text := request ->> 'stream';
    wanted bigint;
    held record;
    told jsonb;
    missing text[];
BEGIN
    IF request ->> 'protocol' IS DISTINCT FROM '1' THEN
        RETURN public.keytide_greeting() || '{"status": "unsupported"}';
    END IF;
    IF request ->> 'mode' = 'adopt' THEN
        RETURN public.keytide_adopt(request);
    END IF;
    me := (request ->> 'instance')::uuid;
    wanted := (request ->> 'seq')::bigint;
    IF to_stream IS NULL OR to_stream !~ '^[a-z][a-z0-9_]{0,40}$' THEN
        missing := ARRAY['a table prefix'];
    ELSE
        missing := '{}';
    END IF;

    -- Twice: first without a lock, for the answers that write nothing.
    FOR turn IN 1 .. 2 LOOP
        SELECT s.last_seq, s.digest, s.answer INTO held
        FROM public.keytide_streams s WHERE s.instance = me AND s.stream = to_stream;
        held.last_seq := coalesce(held.last_seq, 0);
        held.digest := coalesce(held.digest, '');
        IF held.last_seq = wanted AND held.digest = request ->> 'digest' THEN
            RETURN public.keytide_greeting() || jsonb_build_object(
                'status', 'already', 'seq', held.last_seq, 'digest', held.digest, 'rows', held.answer);
        ELSIF held.last_seq + 1 <> wanted OR held.digest IS DISTINCT FROM request ->> 'prev' THEN
            RETURN public.keytide_greeting() || jsonb_build_object(
                'status', 'mismatch', 'seq', held.last_seq, 'digest', held.digest);
        END IF;
        EXIT WHEN turn = 2;
        IF current_setting('transaction_read_only') = 'on' THEN
            RETURN public.keytide_greeting() || jsonb_build_object(
                'status', 'read_only', 'seq', held.last_seq, 'digest', held.digest);
        END IF;
        IF missing = '{}' THEN missing := public.keytide_missing(to_stream); END IF;
        IF missing <> '{}' THEN
            RETURN public.keytide_greeting() || jsonb_build_object(
                'status', 'missing', 'seq', held.last_seq, 'digest', held.digest,
                'missing', jsonb_build_array(jsonb_build_object('stream', to_stream, 'what', missing)));
        END IF;
        INSERT INTO public.keytide_streams (instance, stream) SELECT me, to_stream
        WHERE NOT EXISTS (SELECT 1 FROM public.keytide_streams s WHERE s.instance = me AND s.stream = to_stream)
        ON CONFLICT DO NOTHING;
        PERFORM 1 FROM public.keytide_streams s WHERE s.instance = me AND s.stream = to_stream FOR UPDATE;
    END LOOP;

    -- Our own writes carry their stamps; taken back at the end, so that what else this transaction does is stamped.
    PERFORM set_config('keytide.writer', 'on', true);
    told := public.keytide_apply(to_stream, request ->> 'provider', request -> 'rows', false);
    PERFORM set_config('keytide.writer', '', true);
    UPDATE public.keytide_streams s
    SET last_seq = wanted, digest = request ->> 'digest', answer = told, stats_xid = pg_current_xact_id(), updated_at = now()
    WHERE s.instance = me AND s.stream = to_stream;
    RETURN public.keytide_greeting() || jsonb_build_object(
        'status', 'applied', 'seq', wanted, 'digest', request ->> 'digest', 'rows', told);
END $$;
