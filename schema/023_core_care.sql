-- What of the core is kept how long, and less of it as the storage budget is used up.

SET client_min_messages = warning;

-- Days of users from before a day become months; some at a time. Returns how many, and whether there are more.
CREATE OR REPLACE FUNCTION public.keytide_fold_days(before date, most integer) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    folded bigint;
    -- Who writes by hand can write more than a sum may be.
    most_ever constant bigint := 4000000000000000000;
BEGIN
    WITH old AS (
        SELECT user_id, date FROM public.daily_logs WHERE date < before LIMIT most
    ), gone AS (
        DELETE FROM public.daily_logs d USING old o WHERE d.user_id = o.user_id AND d.date = o.date AND d.date < before
        RETURNING d.user_id, date_trunc('month', d.date)::date AS month, public.keytide_log_read(d.log_data) AS r
    ), months AS (
        INSERT INTO public.monthly_logs AS t (user_id, month, log_data)
        SELECT g.user_id, g.month, public.keytide_log_write('{}', public.keytide_log_more(public.keytide_log_read('{}'), ROW(
            NULL, NULL, least(sum((g.r).conversations), most_ever), least(sum((g.r).calls), most_ever), least(sum((g.r).uploads), most_ever),
            least(sum((g.r).s), most_ever), least(sum((g.r).f), most_ever), least(sum((g.r).o), most_ever), least(sum((g.r).p), most_ever),
            least(sum((g.r).q), most_ever), max((g.r).lu), least(sum((g.r).limits), most_ever), least(sum((g.r).auth), most_ever), least(sum((g.r).server), most_ever),
            ARRAY(SELECT DISTINCT k FROM gone k1, unnest((k1.r).keys) k WHERE k1.user_id = g.user_id AND k1.month = g.month),
            bool_or((g.r).more), (array_agg((g.r).k ORDER BY (g.r).at DESC NULLS LAST, (g.r).k COLLATE "C" DESC NULLS LAST))[1],
            max((g.r).at) FILTER (WHERE (g.r).k IS NOT NULL))::public.keytide_day_row, false))
        FROM gone g GROUP BY g.user_id, g.month ORDER BY g.month, g.user_id
        ON CONFLICT (month, user_id) DO UPDATE
        SET log_data = public.keytide_log_write(t.log_data, public.keytide_log_more(
            public.keytide_log_read(t.log_data), public.keytide_log_read(excluded.log_data), false))
    ) SELECT count(*) INTO folded FROM gone;
    RETURN folded;
END $$;

-- How far the ladder is climbed for a budget: at 70, 85 and 95 percent a rung up, and down again 5 percent below.
CREATE OR REPLACE FUNCTION public.keytide_rung(was integer, used bigint, budget bigint) RETURNS integer LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN budget IS NULL THEN 0
                WHEN used >= budget * 0.95 OR was >= 3 AND used >= budget * 0.90 THEN 3
                WHEN used >= budget * 0.85 OR was >= 2 AND used >= budget * 0.80 THEN 2
                WHEN used >= budget * 0.70 OR was >= 1 AND used >= budget * 0.65 THEN 1
                ELSE 0 END
$$;

-- Keeps of the core what is to be kept: `rung` 0 normal, 1 a week less, 2 seven days of hours and of users' days (older
-- ones are days of keys and months), 3 what is optional stays with the instances. Tells what it did; nothing where batches
-- are at it for long.
CREATE OR REPLACE FUNCTION public.keytide_retain_core(budget bigint, used bigint, most integer) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET timezone = 'UTC' AS $$
DECLARE
    today integer := public.keytide_today();
    hour bigint := public.keytide_hour();
    moment timestamptz := public.keytide_now();
    -- Who used keys in an hour is many rows a day.
    plain constant integer := most * 4;
    settings record;
    level integer;
    did jsonb := '[]';
    more boolean := false;
    held boolean := false;
    one record;
    done record;
    changed bigint;
    idle uuid[];
    waits text := current_setting('lock_timeout');
    writer text := coalesce(current_setting('keytide.writer', true), '');
BEGIN
    IF public.keytide_missing('core') <> '{}' THEN
        RETURN jsonb_build_object('rung', 0);
    END IF;
    -- Whoever is at it goes first; the others have to go on. A call has few seconds for all that it waits.
    PERFORM set_config('lock_timeout', '3s', true);
    BEGIN
        PERFORM pg_advisory_xact_lock(hashtextextended('keytide core', 0));
    EXCEPTION WHEN lock_not_available THEN
        PERFORM set_config('lock_timeout', waits, true);
        RETURN NULL;
    END;
    PERFORM set_config('keytide.writer', 'on', true);
    SELECT * INTO settings FROM public.keytide_settings;
    level := public.keytide_rung(settings.rung, used, budget);
    UPDATE public.keytide_settings s
    SET rung = level,
        -- Never back, unless this machine's clock was ahead once.
        hours_from = greatest(CASE WHEN s.hours_from <= hour THEN s.hours_from ELSE 0 END, (hour / 24 - ('{30,23,7,1}'::integer[])[level + 1]) * 24),
        days_from = greatest(CASE WHEN s.days_from <= today THEN s.days_from ELSE 0 END, today - ('{30,23,7,7}'::integer[])[level + 1])
    RETURNING s.* INTO settings;

    PERFORM public.keytide_parts_ahead();

    -- First what is dropped as a whole, in the order in which a pull reads it. What is held by others is dropped another time, and so
    -- is the rest.
    FOR one IN
        SELECT p.name, CASE p.name
            WHEN 'hourly_stats' THEN public.keytide_hour_at(settings.hours_from)
            WHEN 'keytide_key_days' THEN public.keytide_day(today - 30)::timestamp AT TIME ZONE 'UTC'
            -- To the hour: where something comes all the time, something would be there to go in every call.
            WHEN 'security_events' THEN date_trunc('hour', moment) - ('{30,23,23,7}'::integer[])[level + 1] * '1 day'::interval
            ELSE CASE level WHEN 3 THEN moment ELSE date_trunc('hour', moment) - ('{7,5,3}'::integer[])[level + 1] * '1 day'::interval END
            END AS before
        FROM (SELECT name FROM public.keytide_parted() UNION
              -- Switched off, it still ends.
              SELECT 'key_usage_logs' WHERE public.keytide_own_log() IS NOT NULL) p
        WHERE p.name <> 'daily_logs'
        ORDER BY array_position('{keytide_key_days,hourly_stats}'::text[], p.name), p.name
    LOOP
        done := public.keytide_shed(one.name, one.before, most);
        IF done.parts > 0 OR done.rows > 0 THEN
            did := did || jsonb_build_object('what', 'dropped', 'table', one.name, 'parts', done.parts, 'rows', done.rows);
        END IF;
        more := more OR done.more;
        held := done.held;
        EXIT WHEN held;
    END LOOP;
    changed := public.keytide_fold_days(public.keytide_day(settings.days_from), most);
    more := more OR changed >= most;
    IF changed > 0 THEN
        did := did || jsonb_build_object('what', 'folded', 'table', 'daily_logs', 'rows', changed);
    END IF;
    IF changed < most AND NOT held THEN
        done := public.keytide_shed('daily_logs', public.keytide_day(settings.days_from)::timestamp AT TIME ZONE 'UTC', most);
        IF done.parts > 0 THEN
            did := did || jsonb_build_object('what', 'dropped', 'table', 'daily_logs', 'parts', done.parts);
        END IF;
        more := more OR done.more;
    END IF;

    FOR one IN
        SELECT * FROM (VALUES
            ('keytide_user_sets', format('kind = ''kh'' AND n < %s', hour - 26)),
            ('keytide_user_sets', format('kind = ''kd'' AND n < %s', today - 8)),
            ('keytide_token_days', format('day < %s', today - 2)),
            ('keytide_touches', format('kind = ''kh'' AND n < %s OR kind = ''kd'' AND n < %s', settings.hours_from, today - 30)),
            ('monthly_logs', format('month < %L', date_trunc('month', public.keytide_day(today)) - '13 months'::interval))
        ) AS d (name, condition)
    LOOP
        EXECUTE format('DELETE FROM public.%1$I WHERE ctid = ANY (ARRAY(SELECT ctid FROM public.%1$I WHERE %2$s LIMIT %3$s))',
                       one.name, one.condition, plain);
        GET DIAGNOSTICS changed = ROW_COUNT;
        more := more OR changed >= plain;
        IF changed > 0 THEN
            did := did || jsonb_build_object('what', 'deleted', 'table', one.name, 'rows', changed);
        END IF;
    END LOOP;

    -- A key that nobody uses has its midnight too.
    idle := ARRAY(SELECT k.id FROM public.shared_keys k WHERE k.stats_day < today ORDER BY k.id LIMIT most FOR UPDATE);
    IF cardinality(idle) > 0 THEN
        PERFORM public.keytide_apply_shared(idle, '{}', false);
        did := did || jsonb_build_object('what', 'rolled', 'table', 'shared_keys', 'rows', cardinality(idle));
        more := more OR cardinality(idle) >= most;
    END IF;
    PERFORM set_config('keytide.writer', writer, true);
    PERFORM set_config('lock_timeout', waits, true);
    RETURN jsonb_build_object('rung', level, 'did', did, 'more', more);
END $$;
