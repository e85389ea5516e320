-- What has changed: keytide_pull reads, in one snapshot, and writes nothing.

SET client_min_messages = warning;

-- One list of a page: rows in order of their `place`, a text that orders bytewise, with commas between. They are text
-- from the beginning, since jsonb would put a blank after every name and every comma of some thousand rows.
-- A row belongs to it unless the cursor's snapshot saw its last change; for rows in the state lane the index on
-- state_xid helps, since all that a snapshot did not see is at or above its xmin.
CREATE OR REPLACE FUNCTION public.keytide_page(
    list text, stream text, provider text, cursor pg_snapshot, after text, most integer, installed timestamptz,
    OUT rows text, OUT many bigint, OUT last text
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    source text;
    lane text := CASE WHEN list IN ('gone', 'keys', 'tokens') THEN 'state_xid' ELSE 'stats_xid' END;
BEGIN
    source := CASE list
    WHEN 'gone' THEN $q$
        SELECT t.kind || ':' || t.id AS place,
            row_to_json((SELECT j FROM (SELECT t.kind AS t, t.id AS id, t.version AS v) j)) AS j
        FROM public.keytide_tombstones t WHERE t.stream = $1$q$
    WHEN 'keys' THEN format($q$
        SELECT t.api_key AS place, row_to_json((SELECT j FROM (SELECT
            t.api_key AS k, t.added_v AS a, public.keytide_ms(coalesce(t.created_at, $6)) AS c,
            CASE WHEN t.username NOT IN ('', 'N/A') THEN t.username END AS u, t.username_v AS uv,
            nullif(t.note, '') AS n, t.note_v AS nv, public.keytide_ms(p.x) AS x, t.expires_v AS xv,
            CASE WHEN t.weight <> 1 THEN least(greatest(t.weight, 1), 65535) END AS w, t.weight_v AS wv,
            CASE WHEN NOT p.e THEN false END AS e, t.enabled_v AS ev, public.keytide_ms(t.disabled_until) AS d, t.disabled_v AS dv,
            t.owner AS ow, t.owner_v AS owv,
            CASE WHEN t.health_epoch IS NOT NULL OR p.f IS NOT NULL OR t.consecutive_failures > 0 OR t.auth_failures > 0
                   OR t.server_failures > 0 OR t.needs_verification
            THEN row_to_json((SELECT j FROM (SELECT
                t.health_epoch AS e, public.keytide_ms(p.f) AS f, t.fail_cause AS c,
                CASE WHEN t.consecutive_failures > 0 THEN t.consecutive_failures END AS n,
                CASE WHEN t.auth_failures > 0 THEN t.auth_failures END AS a,
                CASE WHEN t.server_failures > 0 THEN t.server_failures END AS s,
                CASE WHEN t.needs_verification THEN true END AS v) j)) END AS h) j)) AS j
        FROM public.%I t
        -- What the row means: of one that nobody has touched since the schema came, its status says so.
        CROSS JOIN LATERAL (SELECT
            coalesce(t.enabled, NOT coalesce(t.status = 'disabled' AND t.disabled_until IS NULL, false)) AS e,
            CASE WHEN t.enabled IS NULL AND t.status = 'expired' THEN coalesce(t.expires_at, $6) ELSE t.expires_at END AS x,
            CASE WHEN t.enabled IS NULL AND t.status = 'failed' THEN coalesce(t.failed_until, $6 + '1 hour'::interval)
                 ELSE t.failed_until END AS f) p$q$, stream || '_keys')
    WHEN 'tokens' THEN format($q$
        SELECT t.token AS place, row_to_json((SELECT j FROM (SELECT
            t.token AS k, t.added_v AS a, public.keytide_ms(coalesce(t.created_at, $6)) AS c, nullif(t.name, '') AS n,
            t.name_v AS nv, public.keytide_ms(t.expires_at) AS x, t.expires_v AS xv,
            public.keytide_names(t.allowed_models) AS m, t.models_v AS mv,
            CASE WHEN t.requests_per_minute < 0 THEN 0 WHEN t.requests_per_minute > 1000000 THEN 1000000 ELSE t.requests_per_minute END AS r, t.rpm_v AS rv,
            t.user_id AS us, t.user_v AS usv, CASE WHEN t.requests_per_day < 0 THEN 0 ELSE t.requests_per_day END AS rd, t.rpd_v AS rdv,
            CASE WHEN t.tokens_per_day < 0 THEN 0 ELSE t.tokens_per_day END AS td, t.tpd_v AS tdv,
            public.keytide_names(t.allowed_addresses) AS ad, t.addresses_v AS adv) j)) AS j
        FROM public.%I t$q$, stream || '_client_tokens')
    WHEN 'key_stats' THEN format($q$
        SELECT t.api_key AS place, row_to_json((SELECT j FROM (SELECT
            t.api_key AS k, nullif(t.success_count, 0) AS s, nullif(t.failure_count, 0) AS f,
            nullif(greatest(t.total_requests - coalesce(t.success_count, 0) - coalesce(t.failure_count, 0), 0), 0) AS o,
            public.keytide_ms(t.last_used) AS lu, public.keytide_ms(t.last_success) AS ls,
            public.keytide_ms(t.last_failure) AS lf) j)) AS j
        FROM public.%I t$q$, stream || '_key_stats')
    WHEN 'token_stats' THEN format($q$
        SELECT t.token AS place, row_to_json((SELECT j FROM (SELECT
            t.token AS k, nullif(t.success_count, 0) AS s, nullif(t.failure_count, 0) AS f,
            nullif(greatest(t.request_count - t.success_count - t.failure_count, 0), 0) AS o,
            nullif(t.prompt_tokens, 0) AS p, nullif(t.completion_tokens, 0) AS q, public.keytide_ms(t.last_used) AS lu) j)) AS j
        FROM public.%I t$q$, stream || '_client_tokens')
    WHEN 'models' THEN format($q$
        SELECT t.model AS place, row_to_json((SELECT j FROM (SELECT
            t.model AS m, nullif(t.success_count, 0) AS s, nullif(t.failure_count, 0) AS f,
            nullif(greatest(t.total_requests - coalesce(t.success_count, 0) - coalesce(t.failure_count, 0), 0), 0) AS o,
            nullif(t.prompt_tokens, 0) AS p, nullif(t.completion_tokens, 0) AS q, public.keytide_ms(t.last_used) AS lu) j)) AS j
        FROM public.%I t WHERE t.provider = $2$q$, stream || '_model_stats')
    WHEN 'hours' THEN format($q$
        SELECT lpad(p.h::text, 10, '0') || ':' || t.model AS place, row_to_json((SELECT j FROM (SELECT
            p.h AS h, t.model AS m, nullif(t.success, 0) AS s, nullif(t.failure, 0) AS f,
            nullif(greatest(t.requests - coalesce(t.success, 0) - coalesce(t.failure, 0), 0), 0) AS o,
            nullif(t.prompt_tokens, 0) AS p, nullif(t.completion_tokens, 0) AS q) j)) AS j
        FROM public.%I t
        CROSS JOIN LATERAL (SELECT public.keytide_ms(t.hour) / 3600000 AS h) p
        WHERE t.provider = $2 AND t.model IS NOT NULL AND p.h BETWEEN 0 AND 4294967295$q$, stream || '_model_hourly')
    WHEN 'global' THEN format($q$
        SELECT t.id AS place, row_to_json((SELECT j FROM (SELECT
            nullif(t.success_count, 0) AS s, nullif(t.failure_count, 0) AS f,
            nullif(greatest(t.total_requests - coalesce(t.success_count, 0) - coalesce(t.failure_count, 0), 0), 0) AS o,
            nullif(t.prompt_tokens, 0) AS p, nullif(t.completion_tokens, 0) AS q, public.keytide_ms(t.last_used) AS lu) j)) AS j
        FROM public.%I t WHERE t.id = 'global'$q$, stream || '_global_stats')
    WHEN 'streams' THEN $q$
        SELECT t.instance::text AS place,
            row_to_json((SELECT j FROM (SELECT t.instance AS i, t.last_seq AS s, t.digest AS g) j)) AS j
        FROM public.keytide_streams t WHERE t.stream = $1 AND t.last_seq > 0$q$
    END;
    -- The conditions go in where the planner can use them.
    source := source || CASE WHEN source LIKE '%WHERE%' AND list NOT IN ('keys') THEN ' AND ' ELSE ' WHERE ' END
        || format('($3 IS NULL OR NOT pg_visible_in_snapshot(t.%1$I, $3) AND t.%1$I >= pg_snapshot_xmin($3))', lane);
    EXECUTE format($q$
        SELECT string_agg(json_strip_nulls(j)::text, ',' ORDER BY place COLLATE "C"), count(*), max(place COLLATE "C")
        FROM (SELECT place, j FROM (%s) r WHERE $4 IS NULL OR place COLLATE "C" > $4 ORDER BY place COLLATE "C" LIMIT $5) p$q$, source)
    INTO rows, many, last USING stream, provider, cursor, after, most, installed;
END $$;

-- The same of the core. Tallies and sets come kind by kind, within by period and id, which is how they are indexed;
-- `after` is the place of the last, as text. Of hours and days of keys only those are looked at that a batch has changed
-- since the cursor.
CREATE OR REPLACE FUNCTION public.keytide_core_page(
    list text, cursor pg_snapshot, after text, most integer, OUT rows text, OUT many bigint, OUT last text
) LANGUAGE plpgsql STABLE SET timezone = 'UTC' AS $$
DECLARE
    which text;
    source text;
    since bigint;
    from_n bigint;
    from_i uuid;
    page record;
    seen constant text := '($1 IS NULL OR NOT pg_visible_in_snapshot(t.%1$I, $1) AND t.%1$I >= pg_snapshot_xmin($1))';
BEGIN
    many := 0;
    IF list = 'users' THEN
        EXECUTE format($q$
            SELECT string_agg(json_strip_nulls(j)::text, ',' ORDER BY place), count(*), max(place COLLATE "C")
            FROM (SELECT t.id::text COLLATE "C" AS place, row_to_json((SELECT j FROM (SELECT
                    t.id AS i, t.added_v AS a, public.keytide_ms(coalesce(t.created_at, s.installed_at)) AS c,
                    nullif(t.name, '') AS n, public.keytide_int(t.versions -> 'n', 0, 9223372036854775807) AS nv,
                    nullif(t.note, '') AS o, public.keytide_int(t.versions -> 'o', 0, 9223372036854775807) AS ov,
                    CASE WHEN NOT t.enabled THEN false END AS e, public.keytide_int(t.versions -> 'e', 0, 9223372036854775807) AS ev,
                    CASE WHEN t.requests_per_minute < 0 THEN 0 WHEN t.requests_per_minute > 1000000 THEN 1000000 ELSE t.requests_per_minute END AS r,
                    public.keytide_int(t.versions -> 'r', 0, 9223372036854775807) AS rv,
                    CASE WHEN t.requests_per_day < 0 THEN 0 ELSE t.requests_per_day END AS d,
                    public.keytide_int(t.versions -> 'd', 0, 9223372036854775807) AS dv,
                    CASE WHEN t.tokens_per_day < 0 THEN 0 ELSE t.tokens_per_day END AS t,
                    public.keytide_int(t.versions -> 't', 0, 9223372036854775807) AS tv,
                    public.keytide_names(t.allowed_models) AS m, public.keytide_int(t.versions -> 'm', 0, 9223372036854775807) AS mv,
                    public.keytide_names(t.allowed_addresses) AS ip,
                    public.keytide_int(t.versions -> 'i', 0, 9223372036854775807) AS iv) j)) AS j
                  FROM public.users t, public.keytide_settings s
                  WHERE %s AND ($2 IS NULL OR t.id::text COLLATE "C" > $2) ORDER BY 1 LIMIT $3) p$q$, format(seen, 'state_xid'))
        INTO rows, many, last USING cursor, after, most;
        RETURN;
    END IF;
    IF after ~ '^[a-z]{2}:[0-9]{1,12}:[0-9a-f-]{36}$' THEN
        from_n := split_part(after, ':', 2)::bigint;
        from_i := public.keytide_uuid(to_jsonb(split_part(after, ':', 3)));
    END IF;
    FOREACH which IN ARRAY CASE list WHEN 'sets' THEN '{kd,kh,uk}' WHEN 'limits' THEN '{td}' ELSE '{kd,kh,kt,td,uc,ue,uu}' END::text[] LOOP
        CONTINUE WHEN which < split_part(after, ':', 1) AND from_i IS NOT NULL;
        IF which <> split_part(after, ':', 1) THEN from_i := NULL; END IF;
        since := 0;
        IF which IN ('kd', 'kh') AND cursor IS NOT NULL THEN
            SELECT min(t.n) INTO since FROM public.keytide_touches t
            WHERE t.kind = which AND NOT pg_visible_in_snapshot(t.stats_xid, cursor);
            CONTINUE WHEN since IS NULL;
        END IF;
        -- Instances keep hours of keys for two days: a first pull of all that a hub has would be most of what it sends.
        IF which = 'kh' THEN since := greatest(since, public.keytide_hour() - 49); END IF;
        source := CASE
        WHEN list = 'sets' AND which <> 'uk' THEN format($q$
            SELECT t.n, t.id AS i, row_to_json((SELECT j FROM (SELECT t.kind AS t, t.id AS i, t.n AS n,
                ARRAY(SELECT replace(m::text, '-', '') FROM unnest(t.members) m) AS m) j)) AS j
            FROM public.keytide_user_sets t WHERE t.kind = %L AND t.n >= %s AND ($2 IS NULL OR (t.n, t.id) > ($3, $2)) AND %s
            ORDER BY t.n, t.id$q$, which, since, format(seen, 'stats_xid'))
        WHEN which = 'kd' THEN format($q$
            SELECT t.day AS n, t.key_id AS i, row_to_json((SELECT j FROM (SELECT 'kd' AS t, t.key_id AS i, t.day AS n,
                nullif(t.success, 0) AS s, nullif(t.failure, 0) AS f, nullif(t.other, 0) AS o, public.keytide_ms(t.last_used) AS lu) j)) AS j
            FROM public.keytide_key_days t WHERE t.day >= %s AND ($2 IS NULL OR (t.day, t.key_id) > ($3::integer, $2)) AND %s
            ORDER BY t.day, t.key_id$q$, greatest(since, CASE WHEN from_i IS NULL THEN 0 ELSE from_n END), format(seen, 'stats_xid'))
        WHEN which = 'kh' THEN format($q$
            SELECT p.n, t.shared_key_id AS i, row_to_json((SELECT j FROM (SELECT 'kh' AS t, t.shared_key_id AS i, p.n AS n,
                nullif(t.successful_requests, 0) AS s, nullif(t.failed, 0) AS f,
                nullif(greatest(t.total_requests - t.successful_requests - t.failed, 0), 0) AS o,
                nullif(t.response_ms, 0) AS p, nullif(t.responses, 0) AS q) j)) AS j
            FROM public.hourly_stats t CROSS JOIN LATERAL (SELECT (extract(epoch FROM t.hour_start) / 3600)::bigint AS n) p
            WHERE t.hour_start >= %L AND ($2 IS NULL OR (t.hour_start, t.shared_key_id) > (public.keytide_hour_at($3), $2)) AND %s
            ORDER BY t.hour_start, t.shared_key_id$q$,
            public.keytide_hour_at(greatest(since, CASE WHEN from_i IS NULL THEN 0 ELSE from_n END)), format(seen, 'stats_xid'))
        WHEN which = 'kt' THEN format($q$
            SELECT 0 AS n, t.id AS i, row_to_json((SELECT j FROM (SELECT 'kt' AS t, t.id AS i, 0 AS n,
                nullif(t.success_count, 0) AS s, nullif(t.failure_count, 0) AS f, nullif(t.other_count, 0) AS o,
                nullif(public.keytide_total_used(0, 0, 0, t.baseline, t.usage_stats), 0) AS p,
                public.keytide_ms(t.last_used) AS lu) j)) AS j
            FROM public.shared_keys t WHERE ($2 IS NULL OR t.id > $2) AND %s ORDER BY t.id$q$, format(seen, 'stats_xid'))
        WHEN which = 'td' THEN format($q$
            SELECT t.day AS n, t.token_id AS i, row_to_json((SELECT j FROM (SELECT 'td' AS t, t.token_id AS i, t.day AS n,
                nullif(t.success, 0) AS s, nullif(t.failure, 0) AS f, nullif(t.other, 0) AS o, nullif(t.prompt_tokens, 0) AS p,
                nullif(t.completion_tokens, 0) AS q, public.keytide_ms(t.last_used) AS lu) j)) AS j
            FROM public.keytide_token_days t WHERE ($2 IS NULL OR (t.day, t.token_id) > ($3::integer, $2)) AND %s
            ORDER BY t.day, t.token_id$q$, format(seen, 'stats_xid'))
        ELSE format($q$
            SELECT t.date - '1970-01-01'::date AS n, t.user_id AS i, row_to_json((SELECT j FROM (SELECT %1$L AS t, t.user_id AS i,
                t.date - '1970-01-01'::date AS n, %2$s) j)) AS j
            FROM (SELECT t.user_id, t.date, t.stats_xid, public.keytide_log_read(t.log_data) AS r FROM public.daily_logs t
                  WHERE ($2 IS NULL OR (t.date, t.user_id) > (public.keytide_day($3), $2)) AND %3$s OFFSET 0) t
            WHERE %4$s ORDER BY t.date, t.user_id$q$, which,
            CASE which
            WHEN 'uu' THEN $q$nullif((t.r).s, 0) AS s, nullif((t.r).f, 0) AS f, nullif((t.r).o, 0) AS o, nullif((t.r).p, 0) AS p,
                nullif((t.r).q, 0) AS q, public.keytide_ms((t.r).lu) AS lu$q$
            WHEN 'uc' THEN 'nullif((t.r).conversations, 0) AS s, nullif((t.r).calls, 0) AS f, nullif((t.r).uploads, 0) AS o'
            WHEN 'ue' THEN 'nullif((t.r).limits, 0) AS s, nullif((t.r).auth, 0) AS f, nullif((t.r).server, 0) AS o'
            ELSE $q$public.keytide_short_keys((t.r).keys) AS m, CASE WHEN (t.r).more THEN true END AS more,
                CASE WHEN (t.r).k ~ '^[0-9a-f]{8}$' THEN (t.r).k END AS k,
                CASE WHEN (t.r).k ~ '^[0-9a-f]{8}$' THEN public.keytide_ms((t.r).at) END AS at$q$ END,
            format(seen, 'stats_xid'),
            -- Only what there is something of; but what an edit made nothing of is told.
            CASE WHEN cursor IS NOT NULL THEN 'true' ELSE CASE which
                WHEN 'uu' THEN '(t.r).s + (t.r).f + (t.r).o + (t.r).p + (t.r).q > 0 OR (t.r).lu IS NOT NULL'
                WHEN 'uc' THEN '(t.r).conversations + (t.r).calls + (t.r).uploads > 0'
                WHEN 'ue' THEN '(t.r).limits + (t.r).auth + (t.r).server > 0'
                ELSE 'cardinality((t.r).keys) > 0 OR (t.r).k IS NOT NULL' END END)
        END;
        EXECUTE format($q$
            SELECT string_agg(json_strip_nulls(j)::text, ',' ORDER BY n, i) AS rows, count(*) AS many,
                   (array_agg(n || ':' || i ORDER BY n DESC, i DESC))[1] AS last
            FROM (%s LIMIT $4) p$q$, source) INTO page USING cursor, from_i, from_n, most - many;
        IF page.many > 0 THEN
            rows := concat_ws(',', rows, page.rows);
            many := many + page.many;
            last := which || ':' || page.last;
        END IF;
        EXIT WHEN many >= most;
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION public.keytide_short_keys(keys text[]) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ARRAY(SELECT k FROM unnest(keys) k WHERE k ~ '^[0-9a-f]{8}$')
$$;

-- Whether a provider's tables are all there. Cheap, for every pull; hello and push look at columns and triggers too. Those of
-- the core have names that others use as well.
CREATE OR REPLACE FUNCTION public.keytide_has_tables(stream text) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN stream = 'core' THEN public.keytide_missing('core') = '{}' ELSE (
        SELECT bool_and(to_regclass(format('public.%I', stream || part)) IS NOT NULL)
        FROM unnest('{_keys,_key_stats,_client_tokens,_global_stats,_model_stats,_model_hourly}'::text[]) part) END
$$;

-- One that answers in another type, of another keytide, cannot be replaced, only dropped.
DO $$ BEGIN
    IF (SELECT p.prorettype FROM pg_proc p WHERE p.oid = to_regprocedure('public.keytide_pull(jsonb)')) <> 'json'::regtype THEN
        DROP FUNCTION public.keytide_pull(jsonb);
    END IF;
END $$;

CREATE OR REPLACE FUNCTION public.keytide_pull(request jsonb) RETURNS json
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    me uuid;
    settings record;
    held record;
    ask jsonb;
    page jsonb;
    pages text[] := '{}';
    lists text[];
    rows text[];
    next jsonb;
    part record;
    missing jsonb := '{}';
    lefts integer;
    from_list integer;
    after text;
    cursor pg_snapshot;
    of_stream text;
BEGIN
    IF request ->> 'protocol' IS DISTINCT FROM '1' THEN
        RETURN (public.keytide_greeting() || jsonb_build_object(
            'status', 'unsupported', 'snapshot', pg_current_snapshot()::text, 'pages', '[]'::jsonb))::json;
    END IF;
    me := (request ->> 'instance')::uuid;
    SELECT s.installed_at, s.swept, jsonb_build_object(
        'h', greatest(s.hours_from, public.keytide_hour() - 719), 'd', greatest(s.days_from, public.keytide_today() - 30)) AS kept
    INTO settings FROM public.keytide_settings s;
    FOR ask IN SELECT v FROM public.keytide_list(request -> 'asks') ORDER BY pos LOOP
        of_stream := ask ->> 'stream';
        page := jsonb_build_object('stream', of_stream, 'lane', ask -> 'lane', 'swept', settings.swept, 'kept', settings.kept);
        IF NOT missing ? of_stream THEN
            missing := missing || jsonb_build_object(of_stream,
                of_stream !~ '^[a-z][a-z0-9_]{0,40}$' OR NOT public.keytide_has_tables(of_stream));
        END IF;
        IF missing -> of_stream = 'true' THEN
            pages := pages || (page || '{"missing": true}')::text;
            CONTINUE;
        END IF;
        SELECT s.last_seq, s.digest, s.answer INTO held
        FROM public.keytide_streams s WHERE s.instance = me AND s.stream = of_stream;
        page := page || jsonb_build_object(
            'seq', coalesce(held.last_seq, 0), 'digest', coalesce(held.digest, ''), 'answer', coalesce(held.answer, '{}'));

        lists := CASE WHEN of_stream = 'core' AND ask ->> 'lane' = 'state' THEN '{gone,users}'
                      -- What others have used of the limits by day, which cannot wait for the rest.
                      WHEN ask ->> 'lane' = 'limits' THEN CASE of_stream WHEN 'core' THEN '{limits}' ELSE '{}' END
                      WHEN of_stream = 'core' THEN '{tallies,sets,streams}'
                      WHEN ask ->> 'lane' = 'state' THEN '{gone,keys,tokens}'
                      ELSE '{key_stats,token_stats,models,hours,global,streams}' END;
        cursor := (ask ->> 'cursor')::pg_snapshot;
        lefts := coalesce(public.keytide_int(ask -> 'limit', 1, 10000), 1000);
        from_list := coalesce(public.keytide_int(ask -> 'after' -> 0, 1, cardinality(lists)), 1);
        after := ask -> 'after' ->> 1;
        rows := '{}';
        next := 'null';
        FOR at IN from_list .. cardinality(lists) LOOP
            IF lists[at] IN ('users', 'tallies', 'limits', 'sets') THEN
                part := public.keytide_core_page(lists[at], cursor, after, lefts);
            ELSE
                part := public.keytide_page(lists[at], of_stream, ask ->> 'provider', cursor, after, lefts, settings.installed_at);
            END IF;
            after := NULL;
            IF part.many > 0 THEN
                rows := rows || format(CASE WHEN lists[at] = 'global' THEN '"%s":%s' ELSE '"%s":[%s]' END,
                    CASE lists[at] WHEN 'limits' THEN 'tallies' ELSE lists[at] END, part.rows);
            END IF;
            lefts := lefts - part.many;
            IF lefts <= 0 THEN
                -- Perhaps there is more; the next page says so.
                next := jsonb_build_array(at, part.last);
                EXIT;
            END IF;
        END LOOP;
        page := page || jsonb_build_object('next', next);
        pages := pages || format('%s,"rows":{%s}}', left(page::text, -1), array_to_string(rows, ','));
    END LOOP;
    page := public.keytide_greeting() || jsonb_build_object('status', 'ok', 'snapshot', pg_current_snapshot()::text);
    RETURN format('%s,"pages":[%s]}', left(page::text, -1), array_to_string(pages, ','))::json;
END $$;
