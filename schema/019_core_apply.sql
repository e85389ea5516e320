-- A batch of the core, and what is found of it by a pull.

SET client_min_messages = warning;

-- The positions of what is older than what is kept, or has no part to be in.
CREATE OR REPLACE FUNCTION public.keytide_late(list jsonb, of_table text, kept interval) RETURNS bigint[] LANGUAGE sql STABLE AS $$
    -- The catalog is asked once, not for every row.
    WITH parts AS MATERIALIZED (SELECT * FROM public.keytide_parts(of_table)), told AS (
        SELECT l.pos, coalesce(least(public.keytide_date(l.v -> 'at'), public.keytide_now() + '1 day'::interval), public.keytide_now()) AS at
        FROM public.keytide_list(list) l)
    SELECT coalesce(array_agg(t.pos ORDER BY t.pos), '{}') FROM told t
    WHERE t.at < public.keytide_now() - kept OR NOT EXISTS (
        SELECT 1 FROM parts p WHERE t.at AT TIME ZONE 'UTC' >= p.starts AND t.at AT TIME ZONE 'UTC' < p.ends)
$$;

-- Events: each once, for as long as it is kept. Returns the positions of those that are no longer kept, or have no place.
CREATE OR REPLACE FUNCTION public.keytide_apply_events(list jsonb, rung integer) RETURNS bigint[] LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    late bigint[] := public.keytide_late(list, 'security_events', '30 days');
    latest timestamptz := public.keytide_now() + '1 day'::interval;
BEGIN
    INSERT INTO public.security_events (event, event_type, user_id, shared_key_id, severity, details, created_at, occurrences)
    SELECT DISTINCT ON (e.x) e.x, e.e, public.keytide_uuid(e.v -> 'u'), public.keytide_uuid(e.v -> 'i'),
        coalesce(public.keytide_int(e.v -> 'y', 1, 5), 1)::smallint,
        -- Where space is short, details stay with whoever tells.
        CASE WHEN rung < 3 AND jsonb_typeof(e.v -> 'd') = 'object' AND e.v -> 'd' <> '{}' AND octet_length((e.v -> 'd')::text) <= 2048
             THEN e.v -> 'd' END,
        e.at, coalesce(public.keytide_int(e.v -> 'w', 1, 2147483647), 1)::integer
    FROM (
        SELECT l.v, public.keytide_uuid(l.v -> 'x') AS x, public.keytide_text(l.v -> 'e', 50) AS e,
               coalesce(least(public.keytide_date(l.v -> 'at'), latest), public.keytide_now()) AS at
        FROM public.keytide_list(list) l WHERE l.pos <> ALL (late)
    ) e
    WHERE e.x IS NOT NULL AND e.e <> '' AND NOT EXISTS (SELECT 1 FROM public.security_events t WHERE t.event = e.x)
    ORDER BY e.x
    ON CONFLICT DO NOTHING;
    RETURN late;
END $$;

-- A row per request, where that is switched on and there is space.
CREATE OR REPLACE FUNCTION public.keytide_apply_logs(list jsonb, rung integer) RETURNS bigint[] LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    late bigint[];
    latest timestamptz := public.keytide_now() + '1 day'::interval;
BEGIN
    IF rung >= 3 OR NOT EXISTS (SELECT 1 FROM public.keytide_parted() p WHERE p.name = 'key_usage_logs') THEN
        RETURN ARRAY(SELECT l.pos FROM public.keytide_list(list) l ORDER BY l.pos);
    END IF;
    late := public.keytide_late(list, 'key_usage_logs', '7 days');
    INSERT INTO public.key_usage_logs (shared_key_id, user_id, usage_type, status_code, created_at)
    SELECT e.i, e.u, e.y, e.c, e.at AT TIME ZONE 'UTC'
    FROM (
        SELECT public.keytide_uuid(l.v -> 'i') AS i, public.keytide_uuid(l.v -> 'u') AS u,
            public.keytide_int(l.v -> 'y', 1, 2)::smallint AS y, public.keytide_int(l.v -> 'c', 0, 32767)::smallint AS c,
            coalesce(least(public.keytide_date(l.v -> 'at'), latest), public.keytide_now()) AS at
        FROM public.keytide_list(list) l WHERE l.pos <> ALL (late)
    ) e
    WHERE e.i IS NOT NULL AND e.u IS NOT NULL;
    RETURN late;
END $$;

-- Which table's which part a counter or set belongs to.
CREATE OR REPLACE FUNCTION public.keytide_place(kind text, n bigint, OUT name text, OUT at timestamp) LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN kind = 'kh' THEN 'hourly_stats' WHEN kind = 'kd' THEN 'keytide_key_days'
                WHEN kind IN ('uu', 'uc', 'ue', 'uk') THEN 'daily_logs' END,
           CASE WHEN kind = 'kh' THEN public.keytide_day(n / 24)::timestamp WHEN kind = 'kd' THEN public.keytide_day(n)::timestamp
                ELSE date_trunc('month', public.keytide_day(n)::timestamp) END
$$;

-- Which parts a batch needs that are not there.
CREATE OR REPLACE FUNCTION public.keytide_apart(tallies public.keytide_tally_row[], sets public.keytide_set_row[], batch jsonb)
RETURNS TABLE (name text, unit text, at timestamp) LANGUAGE sql STABLE AS $$
    SELECT t.name, t.unit, n.at
    FROM public.keytide_parted() t
    JOIN (
        SELECT DISTINCT p.name, p.at
        FROM (SELECT r.t, r.n FROM unnest(tallies) r WHERE r.t IN ('uu', 'uc', 'ue', 'kd', 'kh')
              UNION SELECT r.t, r.n FROM unnest(sets) r) r
        CROSS JOIN LATERAL public.keytide_place(r.t, r.n) p
        UNION
        SELECT DISTINCT k.name, date_trunc(k.unit, least(public.keytide_date(l.v -> 'at'), public.keytide_now() + '1 day'::interval) AT TIME ZONE 'UTC')
        FROM (VALUES ('security_events', 'month', 'events', 31), ('key_usage_logs', 'day', 'logs', 7)) k (name, unit, list, days)
        CROSS JOIN LATERAL public.keytide_list(batch -> k.list) l
        WHERE public.keytide_date(l.v -> 'at') > public.keytide_now() - k.days * '1 day'::interval
    ) n ON n.name = t.name
    WHERE NOT EXISTS (SELECT 1 FROM public.keytide_parts(t.name) p WHERE n.at >= p.starts AND n.at < p.ends)
    ORDER BY t.name, n.at
$$;

-- All rows of a batch of the core. Returns how those were answered that were not applied as such.
CREATE OR REPLACE FUNCTION public.keytide_apply_core(me uuid, batch jsonb, raise boolean) RETURNS jsonb
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    ahead bigint := public.keytide_version() + (300000000::bigint << 10);
    today integer := public.keytide_today();
    hour bigint := public.keytide_hour();
    settings record;
    gone jsonb := '[]';
    clock jsonb := '[]';
    expired jsonb := '[]';
    users public.keytide_user_row[];
    shares public.keytide_share_row[];
    tallies public.keytide_tally_row[];
    sets public.keytide_set_row[];
    days public.keytide_day_row[];
    late bigint[];
    keys uuid[];
    used uuid[];
    moves boolean;
    lacking text[];
BEGIN
    IF jsonb_typeof(batch) IS DISTINCT FROM 'object' THEN batch := '{}'; END IF;
    users := ARRAY(SELECT l FROM public.keytide_user_rows(batch -> 'users') l);
    shares := ARRAY(SELECT r FROM public.keytide_share_rows(batch -> 'shares') r);
    tallies := public.keytide_tally_rows(batch -> 'tallies');
    sets := public.keytide_set_rows(batch -> 'sets');
    -- What is far from now takes no part in anything; how far exactly is seen under the lock.
    tallies := ARRAY(SELECT r FROM unnest(tallies) r WHERE r.t = 'kt' OR r.t = 'kh' AND r.n BETWEEN hour - 800 AND hour + 48
                                                        OR r.t NOT IN ('kt', 'kh') AND r.n BETWEEN today - 32 AND today + 2);
    sets := ARRAY(SELECT r FROM unnest(sets) r WHERE r.t = 'kh' AND r.n BETWEEN hour - 27 AND hour + 48
                                                  OR r.t <> 'kh' AND r.n BETWEEN today - 9 AND today + 2);
    keys := ARRAY(SELECT r.i FROM unnest(shares) r UNION SELECT r.i FROM unnest(tallies) r WHERE r.t IN ('kd', 'kh', 'kt')
                  UNION SELECT r.i FROM unnest(sets) r WHERE r.t IN ('kd', 'kh'));

    -- Whoever makes rows that others may make too, or deletes some, is alone; the others count side by side.
    moves := jsonb_typeof(batch -> 'gone') = 'array' OR EXISTS (SELECT 1 FROM unnest(users) r WHERE r.add)
        OR EXISTS (SELECT 1 FROM unnest(keys) AS i (id) WHERE NOT EXISTS (SELECT 1 FROM public.shared_keys k WHERE k.id = i.id))
        OR EXISTS (SELECT 1 FROM unnest(tallies) r WHERE r.t IN ('uu', 'uc', 'ue') AND NOT EXISTS (
            SELECT 1 FROM public.daily_logs d WHERE d.user_id = r.i AND d.date = public.keytide_day(r.n)))
        OR EXISTS (SELECT 1 FROM unnest(sets) r WHERE r.t = 'uk' AND NOT EXISTS (
            SELECT 1 FROM public.daily_logs d WHERE d.user_id = r.i AND d.date = public.keytide_day(r.n)))
        OR EXISTS (SELECT 1 FROM unnest(tallies) r WHERE r.t = 'td' AND NOT EXISTS (
            SELECT 1 FROM public.keytide_token_days d WHERE d.token_id = r.i AND d.day = r.n::integer))
        OR EXISTS (SELECT 1 FROM public.keytide_apart(tallies, sets, batch));
    IF moves THEN
        PERFORM pg_advisory_xact_lock(hashtextextended('keytide core', 0));
    ELSE
        PERFORM pg_advisory_xact_lock_shared(hashtextextended('keytide core', 0));
    END IF;

    -- What is no longer kept, by rows as they were told.
    SELECT s.rung, s.hours_from, s.days_from INTO settings FROM public.keytide_settings s;
    tallies := ARRAY(SELECT r FROM unnest(tallies) r WHERE CASE
        WHEN r.t = 'kt' THEN true
        WHEN r.t = 'kh' THEN r.n >= greatest((hour / 24 - 30) * 24, settings.hours_from) AND settings.rung < 3
        WHEN r.t = 'kd' THEN r.n >= today - 30
        WHEN r.t = 'td' THEN r.n >= today - 2
        ELSE r.n >= greatest(today - 30, settings.days_from) END);
    sets := ARRAY(SELECT r FROM unnest(sets) r WHERE CASE r.t
        WHEN 'kh' THEN r.n >= greatest(hour - 26, settings.hours_from) AND settings.rung < 3
        WHEN 'kd' THEN r.n >= today - 8
        ELSE r.n >= greatest(today - 8, settings.days_from) END);
    IF moves THEN
        PERFORM public.keytide_part(p.name, p.unit, p.at) FROM public.keytide_apart(tallies, sets, batch) p;
        -- Where none could be made.
        lacking := ARRAY(SELECT p.name || p.at FROM public.keytide_apart(tallies, sets, batch) p);
        IF cardinality(lacking) > 0 THEN
            tallies := ARRAY(SELECT r FROM unnest(tallies) r CROSS JOIN LATERAL public.keytide_place(r.t, r.n) p
                             WHERE (p.name || p.at = ANY (lacking)) IS NOT TRUE);
            sets := ARRAY(SELECT r FROM unnest(sets) r CROSS JOIN LATERAL public.keytide_place(r.t, r.n) p
                          WHERE (p.name || p.at = ANY (lacking)) IS NOT TRUE);
        END IF;
    END IF;
    late := ARRAY(SELECT l.pos FROM public.keytide_list(batch -> 'tallies') l
                  WHERE l.v ->> 't' IN ('uu', 'uc', 'ue', 'td', 'kd', 'kh') AND public.keytide_uuid(l.v -> 'i') IS NOT NULL
                    AND (l.v ->> 't', public.keytide_uuid(l.v -> 'i'), coalesce(public.keytide_int(l.v -> 'n', 0, 4294967295), 0))
                        NOT IN (SELECT r.t, r.i, r.n FROM unnest(tallies) r));
    PERFORM public.keytide_report_many('late', l.name, count(*))
    FROM (SELECT CASE v ->> 't' WHEN 'kh' THEN 'hourly_stats' WHEN 'kd' THEN 'keytide_key_days' ELSE 'daily_logs' END AS name
          FROM public.keytide_list(batch -> 'tallies') WHERE pos = ANY (late)) l GROUP BY l.name;
    expired := expired || public.keytide_places('tallies', late);
    late := ARRAY(SELECT l.pos FROM public.keytide_list(batch -> 'sets') l
                  WHERE l.v ->> 't' IN ('kh', 'kd', 'uk') AND public.keytide_uuid(l.v -> 'i') IS NOT NULL
                    AND (l.v ->> 't', public.keytide_uuid(l.v -> 'i'), coalesce(public.keytide_int(l.v -> 'n', 0, 4294967295), 0))
                        NOT IN (SELECT r.t, r.i, r.n FROM unnest(sets) r));
    PERFORM public.keytide_report_many('late', l.name, count(*))
    FROM (SELECT CASE v ->> 't' WHEN 'uk' THEN 'daily_logs' ELSE 'keytide_user_sets' END AS name
          FROM public.keytide_list(batch -> 'sets') WHERE pos = ANY (late)) l GROUP BY l.name;
    expired := expired || public.keytide_places('sets', late);

    IF batch ? 'gone' THEN
        clock := clock || public.keytide_places('gone', public.keytide_apply_gone_users(batch -> 'gone', ahead));
    END IF;
    IF cardinality(users) > 0 THEN
        clock := clock || public.keytide_places('users', ARRAY(SELECT r.pos FROM unnest(users) r WHERE r.top > ahead));
        gone := gone || public.keytide_places('users', public.keytide_apply_users(users, ahead));
    END IF;

    -- Days of users: one row of each, from all that is told of it.
    days := ARRAY(
        SELECT ROW(d.i, d.n, sum(d.uc_s), sum(d.uc_f), sum(d.uc_o), sum(d.s), sum(d.f), sum(d.o), sum(d.p), sum(d.q), max(d.lu),
                   sum(d.ue_s), sum(d.ue_f), sum(d.ue_o), '{}', NULL, NULL, NULL)::public.keytide_day_row
        FROM (
            SELECT r.i, r.n, CASE WHEN r.t = 'uc' THEN r.s ELSE 0 END AS uc_s, CASE WHEN r.t = 'uc' THEN r.f ELSE 0 END AS uc_f,
                CASE WHEN r.t = 'uc' THEN r.o ELSE 0 END AS uc_o, CASE WHEN r.t = 'uu' THEN r.s ELSE 0 END AS s,
                CASE WHEN r.t = 'uu' THEN r.f ELSE 0 END AS f, CASE WHEN r.t = 'uu' THEN r.o ELSE 0 END AS o,
                CASE WHEN r.t = 'uu' THEN r.p ELSE 0 END AS p, CASE WHEN r.t = 'uu' THEN r.q ELSE 0 END AS q,
                CASE WHEN r.t = 'uu' THEN r.lu END AS lu, CASE WHEN r.t = 'ue' THEN r.s ELSE 0 END AS ue_s,
                CASE WHEN r.t = 'ue' THEN r.f ELSE 0 END AS ue_f, CASE WHEN r.t = 'ue' THEN r.o ELSE 0 END AS ue_o
            FROM unnest(tallies) r WHERE r.t IN ('uu', 'uc', 'ue')
            UNION ALL SELECT r.i, r.n, 0, 0, 0, 0, 0, 0, 0, 0, NULL, 0, 0, 0 FROM unnest(sets) r WHERE r.t = 'uk'
        ) d GROUP BY d.i, d.n);
    IF cardinality(days) > 0 THEN
        days := ARRAY(
            SELECT ROW(d.i, d.n, d.conversations, d.calls, d.uploads, d.s, d.f, d.o, d.p, d.q, greatest(d.lu, r.at), d.limits, d.auth,
                       d.server, coalesce(r.keys, '{}'), coalesce(r.more, false), r.k, r.at)::public.keytide_day_row
            FROM unnest(days) d LEFT JOIN unnest(sets) r ON r.t = 'uk' AND r.i = d.i AND r.n = d.n);
        PERFORM public.keytide_apply_days(days, raise);
    END IF;
    IF EXISTS (SELECT 1 FROM unnest(tallies) r WHERE r.t = 'td') THEN
        PERFORM public.keytide_apply_token_days(ARRAY(SELECT r FROM unnest(tallies) r WHERE r.t = 'td'), raise);
    END IF;

    IF cardinality(keys) > 0 THEN
        PERFORM public.keytide_lock_shares(keys);
        PERFORM public.keytide_apply_shares(shares);
        PERFORM public.keytide_apply_user_sets(ARRAY(SELECT r FROM unnest(sets) r WHERE r.t <> 'uk'));
        -- A set brings its row of counters with it.
        tallies := tallies || ARRAY(
            SELECT ROW(-1 - r.pos, r.t, r.i, r.n, 0, 0, 0, 0, 0, NULL)::public.keytide_tally_row FROM unnest(sets) r
            WHERE r.t <> 'uk' AND NOT EXISTS (SELECT 1 FROM unnest(tallies) o WHERE o.t = r.t AND o.i = r.i AND o.n = r.n));
        PERFORM public.keytide_apply_key_days(ARRAY(SELECT r FROM unnest(tallies) r WHERE r.t = 'kd'), raise);
        PERFORM public.keytide_apply_key_hours(ARRAY(SELECT r FROM unnest(tallies) r WHERE r.t = 'kh'), raise);
        used := ARRAY(SELECT DISTINCT r.i FROM unnest(tallies) r WHERE r.t IN ('kt', 'kd'));
        IF cardinality(used) > 0 THEN
            PERFORM public.keytide_apply_shared(used, ARRAY(SELECT r FROM unnest(tallies) r WHERE r.t = 'kt'), raise);
        END IF;
        INSERT INTO public.keytide_touches AS t (instance, kind, n, stats_xid)
        SELECT DISTINCT me, r.t, r.n, pg_current_xact_id() FROM unnest(tallies) r WHERE r.t IN ('kd', 'kh') ORDER BY 2, 3
        ON CONFLICT (instance, kind, n) DO UPDATE SET stats_xid = excluded.stats_xid;
    END IF;
    IF batch ? 'events' THEN
        late := public.keytide_apply_events(batch -> 'events', settings.rung);
        expired := expired || public.keytide_places('events', late);
        PERFORM public.keytide_report_many('late', 'security_events', cardinality(late));
    END IF;
    IF batch ? 'logs' THEN
        late := public.keytide_apply_logs(batch -> 'logs', settings.rung);
        expired := expired || public.keytide_places('logs', late);
        PERFORM public.keytide_report_many('late', 'key_usage_logs', cardinality(late));
    END IF;
    RETURN jsonb_strip_nulls(jsonb_build_object(
        'gone', nullif(gone, '[]'), 'expired', nullif(expired, '[]'), 'clock', nullif(clock, '[]')));
END $$;
