-- A batch's locks, its deletions, keys and tokens.

SET client_min_messages = warning;

-- Locks all rows that a batch touches, tables and rows always in the same order, so that batches wait for each other
-- and never in a circle.
CREATE OR REPLACE FUNCTION public.keytide_lock(
    stream text, keys text[], tokens text[], key_stats text[]
) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF cardinality(keys) > 0 THEN
        EXECUTE format('SELECT 1 FROM public.%I WHERE api_key = ANY ($1) ORDER BY api_key COLLATE "C" FOR UPDATE', stream || '_keys')
        USING keys;
    END IF;
    IF cardinality(tokens) > 0 THEN
        EXECUTE format('SELECT 1 FROM public.%I WHERE token = ANY ($1) ORDER BY token COLLATE "C" FOR UPDATE', stream || '_client_tokens')
        USING tokens;
    END IF;
    IF cardinality(key_stats) > 0 THEN
        EXECUTE format('SELECT 1 FROM public.%I WHERE api_key = ANY ($1) ORDER BY api_key COLLATE "C" FOR UPDATE', stream || '_key_stats')
        USING key_stats;
    END IF;
END $$;

-- Deletions, of these keys and tokens among others. Returns the positions of those from the future.
CREATE OR REPLACE FUNCTION public.keytide_apply_gone(
    stream text, list jsonb, ahead bigint, keys text[], tokens text[]
) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    one record;
BEGIN
    FOR one IN EXECUTE format($q$
        SELECT g.t, g.id, g.v, k.api_key AS secret FROM (
            SELECT v ->> 't' AS t, v ->> 'id' AS id, public.keytide_int(v -> 'v', 0, 9223372036854775807) AS v
            FROM public.keytide_list($1)) g
        LEFT JOIN (SELECT api_key, added_v, public.keytide_digest(api_key) AS id FROM public.%I WHERE api_key = ANY ($3)) k USING (id)
        WHERE g.t = 'key' AND g.v <= $2 AND g.id ~ '^[0-9a-f]{32}$' AND (k.api_key IS NULL OR g.v > k.added_v)
        UNION ALL
        SELECT g.t, g.id, g.v, k.token FROM (
            SELECT v ->> 't' AS t, v ->> 'id' AS id, public.keytide_int(v -> 'v', 0, 9223372036854775807) AS v
            FROM public.keytide_list($1)) g
        LEFT JOIN (SELECT token, added_v, public.keytide_digest(token) AS id FROM public.%I WHERE token = ANY ($4)) k USING (id)
        WHERE g.t = 'token' AND g.v <= $2 AND g.id ~ '^[0-9a-f]{32}$' AND (k.token IS NULL OR g.v > k.added_v)
        ORDER BY t, id$q$, stream || '_keys', stream || '_client_tokens')
        USING list, ahead, keys, tokens
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

-- Keys: each field by its own version, health by its epoch. Returns the positions of those that were deleted; one that
-- is absent for another reason is not called gone, for whoever tells of it may be the last who has it.
CREATE OR REPLACE FUNCTION public.keytide_apply_keys(stream text, list public.keytide_key_row[], ahead bigint) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    gone bigint[];
    made text[] := '{}';
    secret text;
    installed timestamptz;
BEGIN
    SELECT installed_at INTO installed FROM public.keytide_settings;
    IF EXISTS (SELECT 1 FROM unnest(list) r WHERE r.add) THEN
        EXECUTE format($q$
        WITH made AS (INSERT INTO public.%1$I (api_key, created_at, status, username, note, expires_at, weight, enabled, disabled_until,
            username_v, note_v, expires_v, weight_v, enabled_v, disabled_v, health_epoch, failed_until, fail_cause,
            consecutive_failures, auth_failures, server_failures, needs_verification, owner, owner_v, added_v, state_xid)
        SELECT DISTINCT ON (r.k COLLATE "C") r.k, coalesce(r.c, now()),
            CASE WHEN NOT r.e THEN 'disabled' WHEN r.hv AND r.he >= r.a THEN 'failed' ELSE 'active' END,
            r.u, r.n, r.x, r.w, r.e, r.d,
            CASE WHEN r.uv > r.a THEN r.uv END, CASE WHEN r.nv > r.a THEN r.nv END, CASE WHEN r.xv > r.a THEN r.xv END,
            CASE WHEN r.wv > r.a THEN r.wv END, CASE WHEN r.ev > r.a THEN r.ev END, CASE WHEN r.dv > r.a THEN r.dv END,
            CASE WHEN r.he > r.a THEN r.he END, CASE WHEN r.he >= r.a THEN r.hf END, CASE WHEN r.he >= r.a THEN r.hc END,
            CASE WHEN r.he >= r.a THEN r.hn ELSE 0 END, CASE WHEN r.he >= r.a THEN r.ha ELSE 0 END,
            CASE WHEN r.he >= r.a THEN r.hs ELSE 0 END, r.hv AND r.he >= r.a, r.ow,
            CASE WHEN r.owv > r.a THEN r.owv END, r.a, pg_current_xact_id()
        FROM unnest($2) r
        LEFT JOIN public.keytide_tombstones t ON t.stream = $1 AND t.kind = 'key' AND t.id = r.id
        WHERE r.add AND r.k <> '' AND octet_length(r.k) <= 2000 AND r.top <= $3 AND r.a > coalesce(t.version, -1)
            AND NOT EXISTS (SELECT 1 FROM public.%1$I c WHERE c.api_key = r.k)
        ORDER BY r.k COLLATE "C", r.a DESC
        ON CONFLICT (api_key) DO NOTHING RETURNING api_key)
        SELECT coalesce(array_agg(api_key), '{}') FROM made$q$, stream || '_keys') INTO made USING stream, list, ahead;
        FOR secret IN
            SELECT DISTINCT r.k COLLATE "C" FROM unnest(list) r JOIN unnest(made) AS one (name) ON one.name = r.k
            WHERE EXISTS (SELECT 1 FROM public.keytide_tombstones t
                          WHERE t.stream = keytide_apply_keys.stream AND t.kind = 'key' AND t.id = r.id)
               OR EXISTS (SELECT 1 FROM public.keytide_retired t
                          WHERE t.stream = keytide_apply_keys.stream AND t.kind = 'key' AND t.id = r.id)
            ORDER BY 1
        LOOP
            PERFORM public.keytide_restore_key(stream, secret);
        END LOOP;
        IF cardinality(made) = cardinality(list) THEN RETURN '{}'; END IF;
    END IF;

    -- What was made is as it was told.
    EXECUTE format($q$
        WITH n AS MATERIALIZED (
            SELECT m.*, CASE WHEN NOT m.e THEN 'disabled' WHEN m.hv THEN 'failed' ELSE 'active' END AS status
            FROM (
                SELECT c.api_key, p.added, CASE WHEN r.a > c.added_v THEN coalesce(r.c, c.created_at) ELSE c.created_at END AS c,
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
                    CASE WHEN r.owv > coalesce(c.owner_v, c.added_v) THEN r.ow ELSE c.owner END AS ow,
                    nullif(greatest(r.owv, c.owner_v, c.added_v, p.added), p.added) AS owv,
                    nullif(greatest(i.e, b.e), p.added) AS he,
                    CASE WHEN i.e > b.e THEN i.f WHEN i.e < b.e THEN b.f ELSE greatest(i.f, b.f) END AS hf,
                    CASE WHEN i.e > b.e THEN i.c WHEN i.e < b.e THEN b.c
                         WHEN i.f IS NOT DISTINCT FROM b.f AND public.keytide_cause(i.c) > public.keytide_cause(b.c)
                              OR i.f > b.f OR b.f IS NULL AND i.f IS NOT NULL THEN i.c ELSE b.c END AS hc,
                    CASE WHEN i.e > b.e THEN i.n WHEN i.e < b.e THEN b.n ELSE greatest(i.n, b.n) END AS hn,
                    CASE WHEN i.e > b.e THEN i.a WHEN i.e < b.e THEN b.a ELSE greatest(i.a, b.a) END AS ha,
                    CASE WHEN i.e > b.e THEN i.s WHEN i.e < b.e THEN b.s ELSE greatest(i.s, b.s) END AS hs,
                    CASE WHEN i.e > b.e THEN i.v WHEN i.e < b.e THEN b.v ELSE i.v OR b.v END AS hv
                FROM (SELECT DISTINCT ON (k COLLATE "C") * FROM unnest($1) l
                      WHERE top <= $2 AND NOT EXISTS (SELECT 1 FROM unnest($4) AS one (name) WHERE one.name = l.k)
                      ORDER BY k COLLATE "C", a DESC) r
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
        ), done AS (
            UPDATE public.%1$I t
            SET added_v = n.added, created_at = n.c, username = n.u, username_v = n.uv, note = n.n, note_v = n.nv,
                expires_at = n.x, expires_v = n.xv, weight = n.w, weight_v = n.wv, enabled = n.e, enabled_v = n.ev, disabled_until = n.d,
                disabled_v = n.dv, health_epoch = n.he, failed_until = n.hf, fail_cause = n.hc, consecutive_failures = n.hn,
                auth_failures = n.ha, server_failures = n.hs, needs_verification = n.hv, owner = n.ow, owner_v = n.owv,
                status = n.status,
                state_xid = pg_current_xact_id()
            FROM n
            WHERE t.api_key = n.api_key
              AND (t.added_v, t.username, t.username_v, t.note, t.note_v, t.expires_at, t.expires_v, t.weight, t.weight_v,
                   t.enabled, t.enabled_v, t.disabled_until, t.disabled_v, coalesce(t.health_epoch, t.added_v), t.failed_until,
                   t.fail_cause, coalesce(t.consecutive_failures, 0), t.auth_failures, t.server_failures, t.needs_verification,
                   t.owner, t.owner_v)
                  IS DISTINCT FROM
                  (n.added, n.u, n.uv, n.n, n.nv, n.x, n.xv, n.w, n.wv, n.e, n.ev, n.d, n.dv, coalesce(n.he, n.added), n.hf,
                   n.hc, n.hn, n.ha, n.hs, n.hv, n.ow, n.owv)
            RETURNING t.api_key, t.consecutive_failures
        )
        UPDATE public.%2$I s SET consecutive_failures = d.consecutive_failures
        FROM done d
        WHERE s.api_key = d.api_key AND s.consecutive_failures IS DISTINCT FROM d.consecutive_failures$q$,
        stream || '_keys', stream || '_key_stats') USING list, ahead, installed, made;

    EXECUTE format($q$
        SELECT coalesce(array_agg(r.pos ORDER BY r.pos), '{}')
        FROM (SELECT l.pos, l.k, l.a FROM unnest($1) l
              WHERE l.top <= $2 AND NOT EXISTS (SELECT 1 FROM public.%I c WHERE c.api_key = l.k) OFFSET 0) r
        JOIN public.keytide_tombstones t
          ON t.stream = $3 AND t.kind = 'key' AND t.id = public.keytide_digest(r.k) AND t.version >= r.a$q$, stream || '_keys')
    INTO gone USING list, ahead, stream;
    RETURN gone;
END $$;

-- Tokens, as keys.
CREATE OR REPLACE FUNCTION public.keytide_apply_tokens(stream text, list public.keytide_token_row[], ahead bigint) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    gone bigint[];
    made text[];
    secret text;
BEGIN
    IF EXISTS (SELECT 1 FROM unnest(list) r WHERE r.add) THEN
        EXECUTE format($q$
        WITH made AS (INSERT INTO public.%1$I (token, created_at, name, expires_at, allowed_models, requests_per_minute, name_v,
            expires_v, models_v, rpm_v, user_id, user_v, requests_per_day, rpd_v, tokens_per_day, tpd_v, allowed_addresses, addresses_v,
            added_v, request_count, state_xid, stats_xid)
        SELECT DISTINCT ON (r.k COLLATE "C") r.k, coalesce(r.c, now()), r.n, r.x, r.m, r.r,
            CASE WHEN r.nv > r.a THEN r.nv END, CASE WHEN r.xv > r.a THEN r.xv END, CASE WHEN r.mv > r.a THEN r.mv END,
            CASE WHEN r.rv > r.a THEN r.rv END, r.us, CASE WHEN r.usv > r.a THEN r.usv END, r.rd, CASE WHEN r.rdv > r.a THEN r.rdv END,
            r.td, CASE WHEN r.tdv > r.a THEN r.tdv END, r.ad, CASE WHEN r.adv > r.a THEN r.adv END, r.a, 0, pg_current_xact_id(), pg_current_xact_id()
        FROM unnest($2) r
        LEFT JOIN public.keytide_tombstones t ON t.stream = $1 AND t.kind = 'token' AND t.id = r.id
        WHERE r.add AND r.k <> '' AND octet_length(r.k) <= 2000 AND r.top <= $3 AND r.a > coalesce(t.version, -1)
            AND NOT EXISTS (SELECT 1 FROM public.%1$I c WHERE c.token = r.k)
        ORDER BY r.k COLLATE "C", r.a DESC
        ON CONFLICT (token) DO NOTHING RETURNING token)
        SELECT coalesce(array_agg(token), '{}') FROM made$q$, stream || '_client_tokens') INTO made USING stream, list, ahead;
        FOR secret IN
            SELECT DISTINCT r.k COLLATE "C" FROM unnest(list) r JOIN unnest(made) AS one (name) ON one.name = r.k
            WHERE EXISTS (SELECT 1 FROM public.keytide_tombstones t
                          WHERE t.stream = keytide_apply_tokens.stream AND t.kind = 'token' AND t.id = r.id)
               OR EXISTS (SELECT 1 FROM public.keytide_retired t
                          WHERE t.stream = keytide_apply_tokens.stream AND t.kind = 'token' AND t.id = r.id)
            ORDER BY 1
        LOOP
            PERFORM public.keytide_restore_token(stream, secret);
        END LOOP;
    END IF;

    EXECUTE format($q$
        UPDATE public.%1$I t
        SET added_v = n.added, created_at = n.c, name = n.n, name_v = n.nv, expires_at = n.x, expires_v = n.xv,
            allowed_models = n.m, models_v = n.mv, requests_per_minute = n.r, rpm_v = n.rv, user_id = n.us, user_v = n.usv,
            requests_per_day = n.rd, rpd_v = n.rdv, tokens_per_day = n.td, tpd_v = n.tdv, allowed_addresses = n.ad,
            addresses_v = n.adv, state_xid = pg_current_xact_id()
        FROM (
            SELECT c.token, p.added, CASE WHEN r.a > c.added_v THEN coalesce(r.c, c.created_at) ELSE c.created_at END AS c,
                CASE WHEN r.nv > coalesce(c.name_v, c.added_v) THEN r.n ELSE c.name END AS n,
                nullif(greatest(r.nv, c.name_v, c.added_v, p.added), p.added) AS nv,
                CASE WHEN r.xv > coalesce(c.expires_v, c.added_v) THEN r.x ELSE c.expires_at END AS x,
                nullif(greatest(r.xv, c.expires_v, c.added_v, p.added), p.added) AS xv,
                CASE WHEN r.mv > coalesce(c.models_v, c.added_v) THEN r.m ELSE c.allowed_models END AS m,
                nullif(greatest(r.mv, c.models_v, c.added_v, p.added), p.added) AS mv,
                CASE WHEN r.rv > coalesce(c.rpm_v, c.added_v) THEN r.r ELSE c.requests_per_minute END AS r,
                nullif(greatest(r.rv, c.rpm_v, c.added_v, p.added), p.added) AS rv,
                CASE WHEN r.usv > coalesce(c.user_v, c.added_v) THEN r.us ELSE c.user_id END AS us,
                nullif(greatest(r.usv, c.user_v, c.added_v, p.added), p.added) AS usv,
                CASE WHEN r.rdv > coalesce(c.rpd_v, c.added_v) THEN r.rd ELSE c.requests_per_day END AS rd,
                nullif(greatest(r.rdv, c.rpd_v, c.added_v, p.added), p.added) AS rdv,
                CASE WHEN r.tdv > coalesce(c.tpd_v, c.added_v) THEN r.td ELSE c.tokens_per_day END AS td,
                nullif(greatest(r.tdv, c.tpd_v, c.added_v, p.added), p.added) AS tdv,
                CASE WHEN r.adv > coalesce(c.addresses_v, c.added_v) THEN r.ad ELSE c.allowed_addresses END AS ad,
                nullif(greatest(r.adv, c.addresses_v, c.added_v, p.added), p.added) AS adv
            FROM (SELECT DISTINCT ON (k COLLATE "C") * FROM unnest($1) WHERE top <= $2 ORDER BY k COLLATE "C", a DESC) r
            JOIN public.%1$I c ON c.token = r.k
            CROSS JOIN LATERAL (SELECT greatest(c.added_v, r.a) AS added) p
        ) n
        WHERE t.token = n.token
          AND (t.added_v, t.name, t.name_v, t.expires_at, t.expires_v, t.allowed_models, t.models_v,
               t.requests_per_minute, t.rpm_v, t.user_id, t.user_v, t.requests_per_day, t.rpd_v, t.tokens_per_day, t.tpd_v,
               t.allowed_addresses, t.addresses_v)
              IS DISTINCT FROM (n.added, n.n, n.nv, n.x, n.xv, n.m, n.mv, n.r, n.rv, n.us, n.usv, n.rd, n.rdv, n.td, n.tdv,
                                n.ad, n.adv)$q$, stream || '_client_tokens')
    USING list, ahead;

    EXECUTE format($q$
        SELECT coalesce(array_agg(r.pos ORDER BY r.pos), '{}')
        FROM (SELECT l.pos, l.k, l.a FROM unnest($1) l
              WHERE l.top <= $2 AND NOT EXISTS (SELECT 1 FROM public.%I c WHERE c.token = l.k) OFFSET 0) r
        JOIN public.keytide_tombstones t
          ON t.stream = $3 AND t.kind = 'token' AND t.id = public.keytide_digest(r.k) AND t.version >= r.a$q$, stream || '_client_tokens')
    INTO gone USING list, ahead, stream;
    RETURN gone;
END $$;
