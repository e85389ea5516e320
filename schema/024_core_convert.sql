-- Plain tables of the core's names, as the plan or somebody has made them, become ours: for `keytide schema apply --convert`.

SET client_min_messages = warning;

-- Moves the rows of plain `daily_logs`, `hourly_stats` and `security_events` to tables in parts, and compares rows and sums.
-- What has columns that ours have not stays beside them under another name. Anything that would be lost is an error, and
-- then nothing has changed.
CREATE OR REPLACE FUNCTION public.keytide_convert_core() RETURNS text[] LANGUAGE plpgsql VOLATILE SET timezone = 'UTC' AS $$
DECLARE
    done text[] := '{}';
    one record;
    part record;
    old text;
    problem bigint;
    before numeric[];
    after numeric[];
    extra text;
BEGIN
    FOR one IN
        SELECT * FROM (VALUES
            ('daily_logs', 'user_id,date,log_data', 'user_id, date', 'month', 'date',
             'SELECT user_id, date, coalesce(log_data, ''{}'') FROM %s', 'user_id, date, log_data',
             'SELECT ARRAY[count(*), sum((r.r).conversations), sum((r.r).calls), sum((r.r).s + (r.r).f + (r.r).o)]
              FROM (SELECT public.keytide_log_read(log_data) AS r FROM %s) r'),
            ('hourly_stats', 'hour_start,shared_key_id,total_requests,successful_requests,unique_users,avg_response_time',
             'hour_start, shared_key_id', 'day', 'hour_start',
             'SELECT hour_start, shared_key_id, greatest(total_requests, successful_requests, 0), greatest(successful_requests, 0),
                 greatest(unique_users, 0), avg_response_time, greatest(total_requests - coalesce(successful_requests, 0), 0),
                 coalesce(avg_response_time::bigint * total_requests, 0), CASE WHEN avg_response_time IS NULL THEN 0 ELSE coalesce(total_requests, 0) END
              FROM %s', 'hour_start, shared_key_id, total_requests, successful_requests, unique_users, avg_response_time, failed, response_ms, responses',
             'SELECT ARRAY[count(*), sum(greatest(total_requests, successful_requests, 0)), sum(greatest(successful_requests, 0))] FROM %s'),
            ('security_events', 'event_type,user_id,shared_key_id,severity,details,created_at', NULL, 'month', 'created_at',
             'SELECT left(coalesce(event_type, ''unknown''), 50), user_id, shared_key_id, least(greatest(coalesce(severity, 1), 1), 5), details, created_at
              FROM %s', 'event_type, user_id, shared_key_id, severity, details, created_at',
             'SELECT ARRAY[count(*), count(user_id), sum(least(greatest(coalesce(severity, 1), 1), 5))] FROM %s')
        ) AS t (name, needs, key, unit, at, source, target, sums)
    LOOP
        CONTINUE WHEN NOT EXISTS (SELECT 1 FROM pg_class c WHERE c.oid = to_regclass('public.' || one.name) AND c.relkind = 'r');
        SELECT string_agg(n, ', ') INTO extra FROM unnest(string_to_array(one.needs, ',')) n
        WHERE NOT EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = to_regclass('public.' || one.name) AND a.attname = n);
        IF extra IS NOT NULL THEN
            RAISE EXCEPTION 'the table % has no column %, so nobody knows what it holds', one.name, extra
                USING HINT = 'Rename the table, then run this again: keytide makes its own.';
        END IF;
        EXECUTE format('SELECT count(*) FROM public.%I WHERE %I IS NULL %s', one.name, one.at,
                       (SELECT string_agg(format('OR %I IS NULL', k), ' ') FROM unnest(string_to_array(one.key, ', ')) k)) INTO problem;
        IF problem > 0 THEN
            RAISE EXCEPTION '% rows of % have no %', problem, one.name, coalesce(one.key, one.at)
                USING HINT = 'Delete them or fill in what is missing, then run this again.';
        END IF;
        IF one.key IS NOT NULL THEN
            EXECUTE format('SELECT count(*) FROM (SELECT 1 FROM public.%I GROUP BY %s HAVING count(*) > 1) d', one.name, one.key) INTO problem;
            IF problem > 0 THEN
                RAISE EXCEPTION '% holds % values of (%) more than once', one.name, problem, one.key
                    USING HINT = 'Merge those rows, then run this again.';
            END IF;
        END IF;
        EXECUTE format(one.sums, format('public.%I', one.name)) INTO before;
        old := one.name || '_before_keytide';
        EXECUTE format('ALTER TABLE public.%I RENAME TO %I', one.name, old);
        PERFORM public.keytide_make_parted();
        FOR part IN EXECUTE format('SELECT DISTINCT date_trunc(%L, %I)::timestamp AS at FROM public.%I ORDER BY 1', one.unit, one.at, old) LOOP
            PERFORM public.keytide_part(one.name, one.unit, part.at);
        END LOOP;
        EXECUTE format('INSERT INTO public.%I (%s) %s', one.name, one.target, format(one.source, format('public.%I', old)));
        EXECUTE format(one.sums, format('public.%I', one.name)) INTO after;
        IF before IS DISTINCT FROM after THEN
            RAISE EXCEPTION '% held % (rows, sums) and would hold %; nothing was changed', one.name, before, after;
        END IF;
        SELECT string_agg(a.attname, ', ') INTO extra FROM pg_attribute a
        WHERE a.attrelid = to_regclass('public.' || old) AND a.attnum > 0 AND NOT a.attisdropped
          AND a.attname <> ALL (string_to_array(one.needs, ',') || '{id,created_at,updated_at}'::text[]);
        IF extra IS NULL THEN
            EXECUTE format('DROP TABLE public.%I', old);
            done := done || format('made %s a table in parts, with its %s rows', one.name, before[1]);
        ELSE
            PERFORM public.keytide_close(to_regclass('public.' || old));
            done := done || format('made %s a table in parts, with its %s rows; what it was stays as %s, since only that has %s',
                                   one.name, before[1], old, extra);
        END IF;
    END LOOP;
    PERFORM public.keytide_install_core();
    RETURN done;
END $$;

SELECT public.keytide_install_core();
