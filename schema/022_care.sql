-- Greeting, sizes, retention, and making another database the hub.

SET client_min_messages = warning;

-- What was ignored, the latest first.
CREATE OR REPLACE FUNCTION public.keytide_ignored(most integer) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT coalesce(jsonb_agg(jsonb_build_object(
        'kind', r.kind, 'table', r.table_name, 'count', r.count, 'last_at', public.keytide_ms(r.last_at))
        ORDER BY r.last_at DESC, r.table_name, r.kind), '[]')
    FROM (SELECT * FROM public.keytide_reports WHERE count > 0 ORDER BY last_at DESC, table_name, kind LIMIT most) r
$$;

CREATE OR REPLACE FUNCTION public.keytide_hello(request jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    missing jsonb;
    -- Older instances do not say, and count the others in the list.
    listing constant boolean := coalesce(request -> 'list' <> 'false', true);
BEGIN
    IF request ->> 'protocol' IS DISTINCT FROM '1' THEN
        RETURN public.keytide_greeting() || '{"status": "unsupported", "speaks": [1]}';
    END IF;
    IF current_setting('transaction_read_only') = 'off' THEN
        INSERT INTO public.keytide_instances AS i (id, name, version, clock_offset)
        VALUES ((request ->> 'instance')::uuid, coalesce(public.keytide_text(request -> 'name', 200), ''),
                coalesce(public.keytide_text(request -> 'version', 50), ''),
                coalesce(public.keytide_int(request -> 'now', 0, 253402300799000) - public.keytide_ms(clock_timestamp()), 0))
        ON CONFLICT (id) DO UPDATE
        SET name = excluded.name, version = excluded.version, clock_offset = excluded.clock_offset, last_seen = now();
    END IF;
    SELECT coalesce(jsonb_agg(jsonb_build_object('stream', m.stream, 'what', m.what) ORDER BY m.pos), '[]') INTO missing
    FROM (
        SELECT l.pos, l.v #>> '{}' AS stream,
            CASE WHEN l.v #>> '{}' ~ '^[a-z][a-z0-9_]{0,40}$' THEN public.keytide_missing(l.v #>> '{}')
                 ELSE ARRAY['a table prefix'] END AS what
        FROM public.keytide_list(request -> 'streams') l
    ) m WHERE m.what <> '{}';
    RETURN public.keytide_greeting() || jsonb_build_object(
        'status', 'ok', 'speaks', '[1]'::jsonb, 'missing', missing,
        'alive', (SELECT count(*) FROM public.keytide_instances WHERE last_seen > now() - '10 minutes'::interval))
        || CASE WHEN listing THEN jsonb_build_object(
            'instances', coalesce((
                SELECT jsonb_agg(jsonb_build_object(
                    'id', i.id, 'name', i.name, 'version', i.version, 'first_seen', public.keytide_ms(i.first_seen),
                    'last_seen', public.keytide_ms(i.last_seen), 'clock_offset', i.clock_offset) ORDER BY i.last_seen DESC, i.id)
                FROM (SELECT * FROM public.keytide_instances WHERE last_seen > now() - '30 days'::interval
                      ORDER BY last_seen DESC, id LIMIT 1000) i), '[]'),
            'reports', public.keytide_ignored(50)) ELSE '{}' END;
END $$;

-- Bytes of every table of the database, since all of them count. `reusable` is what rows that are gone have left to
-- others: the heap without what its rows would take and what is left free for their changes, as far as the statistics of
-- its columns tell.
CREATE OR REPLACE FUNCTION public.keytide_space() RETURNS TABLE (
    rel regclass, schema name, name name, rows bigint, heap bigint, index bigint, toast bigint, dead bigint, reusable bigint
) LANGUAGE sql STABLE AS $$
    SELECT t.oid::regclass, t.nspname, t.relname, t.live, t.heap, t.index, t.toast, t.dead,
        CASE WHEN t.heap > 131072 AND w.width IS NOT NULL
             THEN greatest(t.heap - ((t.live + t.dead) * (w.width + 32) * 110 / t.filled)::bigint, 0) ELSE 0 END
    FROM (
        SELECT c.oid, n.nspname, c.relname, pg_relation_size(c.oid) AS heap, pg_indexes_size(c.oid) AS index,
            coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0) AS toast,
            coalesce(pg_stat_get_dead_tuples(c.oid), 0) AS dead,
            coalesce((SELECT o.option_value::integer FROM pg_options_to_table(c.reloptions) o
                      WHERE o.option_name = 'fillfactor'), 100) AS filled,
            -- What was counted since the last vacuum, or found by it: after a crash the first begins anew.
            greatest(pg_stat_get_live_tuples(c.oid), c.reltuples, 0)::bigint AS live
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
    ) t
    LEFT JOIN LATERAL (
        SELECT sum(s.avg_width * (1 - s.null_frac))::numeric AS width FROM pg_stats s
        WHERE s.schemaname = t.nspname AND s.tablename = t.relname
    ) w ON true
$$;

-- What of the database counts against a budget.
CREATE OR REPLACE FUNCTION public.keytide_used() RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT pg_database_size(current_database()) - coalesce(sum(s.reusable), 0)::bigint FROM public.keytide_space() s
$$;

CREATE OR REPLACE FUNCTION public.keytide_sizes(request jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    found jsonb;
BEGIN
    IF request ->> 'protocol' IS DISTINCT FROM '1' THEN
        RETURN public.keytide_greeting() || '{"status": "unsupported"}';
    END IF;
    -- Once: it asks for the size of every table.
    WITH space AS MATERIALIZED (SELECT * FROM public.keytide_space())
    SELECT jsonb_build_object(
        'database', pg_database_size(current_database()),
        'used', pg_database_size(current_database()) - coalesce((SELECT sum(s.reusable) FROM space s), 0)::bigint,
        'tables', (
            SELECT coalesce(jsonb_agg(jsonb_build_object(
                'schema', t.schema, 'name', t.name, 'rows', t.rows, 'heap', t.heap, 'index', t.index, 'toast', t.toast, 'dead', t.dead,
                'reusable', t.reusable) ORDER BY t.heap + t.index + t.toast DESC, t.name), '[]')
            FROM (SELECT * FROM space s ORDER BY s.heap + s.index + s.toast DESC LIMIT 200) t)) INTO found;
    RETURN public.keytide_greeting() || found || jsonb_build_object(
        'status', 'ok',
        -- A table of another make is not ours to write to.
        'usage_logs', CASE WHEN EXISTS (SELECT 1 FROM public.keytide_parted() p WHERE p.name = 'key_usage_logs') THEN 'on'
                           WHEN EXISTS (SELECT 1 FROM pg_class c WHERE c.oid = to_regclass('public.key_usage_logs') AND c.relkind <> 'p')
                           THEN 'foreign' ELSE 'off' END,
        'rung', (SELECT s.rung FROM public.keytide_settings s),
        'reports', public.keytide_ignored(50));
END $$;

-- Forgets what is kept for 30 days and older, about `most` rows at a time, one caller at a time. Whoever got no answer in time
-- asks for fewer.
CREATE OR REPLACE FUNCTION public.keytide_retain(request jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    horizon timestamptz := public.keytide_now() - '30 days'::interval;
    most constant integer := coalesce(public.keytide_int(request -> 'most', 100, 20000), 5000);
    -- What is written anew in the time that those take.
    most_bytes constant bigint := most * 20000;
    used bigint;
    loose oid[];
    vacuum text[];
    core jsonb;
    buried bigint;
    unseen bigint;
    hours bigint := 0;
    moved bigint;
    more boolean;
    busy boolean;
    tries integer := 0;
    large text[] := '{}';
    one record;
BEGIN
    IF request ->> 'protocol' IS DISTINCT FROM '1' THEN
        RETURN public.keytide_greeting() || '{"status": "unsupported"}';
    ELSIF current_setting('transaction_read_only') = 'on' THEN
        RETURN public.keytide_greeting() || '{"status": "read_only"}';
    ELSIF NOT pg_try_advisory_xact_lock(hashtextextended('keytide retain', 0)) THEN
        RETURN public.keytide_greeting() || '{"status": "busy"}';
    -- As batches do it; an adoption has to come to its end first.
    ELSIF NOT pg_try_advisory_xact_lock_shared(hashtextextended('keytide adopt', 0))
        OR EXISTS (SELECT 1 FROM public.keytide_settings WHERE adopter IS NOT NULL AND adopt_until > clock_timestamp()) THEN
        RETURN public.keytide_greeting() || '{"status": "busy"}';
    END IF;
    -- Once: it asks for the size of every table. Of what is dead, nothing can be used before a vacuum.
    SELECT pg_database_size(current_database()) - coalesce(sum(s.reusable), 0)::bigint,
        coalesce(array_agg(s.rel::oid) FILTER (WHERE s.heap > 1000000 AND s.reusable * 2 > s.heap), '{}'),
        coalesce(array_agg(format('%I.%I', s.schema, s.name) ORDER BY s.name)
                 FILTER (WHERE s.heap > 1000000 AND s.dead > 1000 AND s.dead * 5 > s.rows), '{}')
    INTO used, loose, vacuum FROM public.keytide_space() s;
    -- Alone with the core, which its batches must not wait for in the middle.
    core := public.keytide_retain_core(public.keytide_int(request -> 'budget', 1, 9000000000000000000), used, most);
    IF core IS NULL THEN
        RETURN public.keytide_greeting() || '{"status": "busy"}';
    END IF;
    -- Revoked tokens are remembered for good.
    DELETE FROM public.keytide_tombstones t USING (
        SELECT stream, kind, id FROM public.keytide_tombstones WHERE kind <> 'token' AND deleted_at < horizon LIMIT most
    ) d WHERE (t.stream, t.kind, t.id) = (d.stream, d.kind, d.id);
    GET DIAGNOSTICS buried = ROW_COUNT;
    IF buried > 0 THEN
        UPDATE public.keytide_settings SET swept = greatest(swept, (public.keytide_ms(horizon) * 1000) << 10);
    END IF;
    -- Not how far their batches were applied: one that comes back goes on from there.
    DELETE FROM public.keytide_instances WHERE id IN (
        SELECT id FROM public.keytide_instances WHERE last_seen < horizon LIMIT most FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS unseen = ROW_COUNT;
    PERFORM set_config('keytide.writer', 'on', true);
    FOR one IN SELECT p.stream FROM public.keytide_providers p ORDER BY p.stream LOOP
        CONTINUE WHEN to_regclass(format('public.%I', one.stream || '_model_hourly')) IS NULL;
        EXECUTE format($q$DELETE FROM public.%1$I WHERE id IN (
            SELECT id FROM public.%1$I WHERE hour < $1 ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED)$q$, one.stream || '_model_hourly')
        USING greatest(horizon, public.keytide_hour_at((SELECT s.hours_from FROM public.keytide_settings s))), most;
        GET DIAGNOSTICS moved = ROW_COUNT;
        hours := hours + moved;
    END LOOP;
    PERFORM set_config('keytide.writer', '', true);
    more := buried = most OR hours >= most OR unseen = most OR coalesce(core -> 'more' = 'true', false);
    IF core ? 'did' THEN
        -- In a call of its own: one that comes to no end in its time undoes nothing else then.
        busy := more OR buried + hours + unseen > 0 OR core -> 'did' <> '[]';
        -- By then a day is over in every zone, and whoever tells of it once in hours has told.
        FOR one IN SELECT * FROM public.keytide_unsettled(public.keytide_now() - '12 hours'::interval, loose) LOOP
            IF one.bytes > most_bytes THEN
                large := large || one.name;
            ELSIF busy AND tries = 0 THEN
                more := true;
                tries := 2;
            -- The next one where somebody is at the first.
            ELSIF tries < 2 THEN
                tries := tries + 1;
                CONTINUE WHEN NOT public.keytide_settle(one.part, one.key);
                core := core || jsonb_build_object('did', jsonb_build_array(jsonb_build_object('what', 'settled', 'table', one.name)));
                -- Of the others the statistics tell, which may be old.
                more := one.fresh;
                tries := 2;
            END IF;
        END LOOP;
        core := core || jsonb_build_object('large', ARRAY(SELECT t FROM unnest(large) t ORDER BY t));
    END IF;
    RETURN public.keytide_greeting() || jsonb_build_object(
        'status', 'ok', 'used', used, 'tombstones', buried, 'hours', hours, 'instances', unseen) || core
        || jsonb_build_object('more', more, 'vacuum', ARRAY(SELECT v FROM unnest(vacuum) v WHERE to_regclass(v) IS NOT NULL));
END $$;

-- Stamps that lie ahead of this cluster's transactions: after a dump and a restore nobody would see those rows change.
-- Some at a time; returns how many are left.
CREATE OR REPLACE FUNCTION public.keytide_restamp(most integer) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    one record;
    moved bigint;
    missed bigint := 0;
    present xid8 := pg_current_xact_id();
BEGIN
    FOR one IN
        SELECT a.attrelid::regclass AS rel, a.attname AS name
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attname IN ('state_xid', 'stats_xid')
          AND NOT a.attisdropped AND (c.relname IN ('keytide_streams', 'keytide_tombstones') OR EXISTS (
              SELECT 1 FROM public.keytide_providers p, public.keytide_uniques() u WHERE c.relname = p.stream || u.part)
              -- Of the core, if it is ours; its tables in parts part by part.
              OR c.relname IN ('users', 'shared_keys', 'keytide_token_days', 'keytide_user_sets', 'keytide_touches')
              OR EXISTS (SELECT 1 FROM pg_inherits i WHERE i.inhrelid = c.oid
                         AND i.inhparent IN (to_regclass('public.daily_logs'), to_regclass('public.hourly_stats'),
                                             to_regclass('public.keytide_key_days'))))
          AND a.atttypid = 'xid8'::regtype
        ORDER BY 1, 2
    LOOP
        moved := 0;
        IF most > 0 THEN
            EXECUTE format('UPDATE %1$s SET %2$I = $1 WHERE ctid = ANY (ARRAY(SELECT ctid FROM %1$s WHERE %2$I > $1 LIMIT $2 FOR UPDATE))',
                           one.rel, one.name) USING present, most;
            GET DIAGNOSTICS moved = ROW_COUNT;
            most := most - moved;
        END IF;
        EXECUTE format('SELECT count(*) FROM %s WHERE %I > $1', one.rel, one.name) INTO moved USING present;
        missed := missed + moved;
    END LOOP;
    RETURN missed;
END $$;

-- Makes this database the hub that an instance knew before: see AdoptRequest in src/replica/wire.rs.
CREATE OR REPLACE FUNCTION public.keytide_adopt(request jsonb) RETURNS jsonb LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    me uuid := (request ->> 'instance')::uuid;
    step text := request ->> 'step';
    was jsonb := request -> 'was';
    to_stream text := coalesce(request ->> 'stream', '');
    greeting jsonb := public.keytide_greeting();
    lock record;
    batch jsonb := coalesce(request -> 'rows', '{}');
    missing text[];
    told jsonb := '{}';
    marks text;
    unstamped bigint := 0;
BEGIN
    IF current_setting('transaction_read_only') = 'on' THEN
        RETURN greeting || '{"status": "read_only"}';
    END IF;
    -- Batches that are being applied come first; those that follow see that this is being adopted.
    IF step = 'begin' THEN PERFORM pg_advisory_xact_lock(hashtextextended('keytide adopt', 0)); END IF;
    -- Retention takes the settings when it has the core, and so does whoever adopts.
    IF to_stream = 'core' AND step IN ('rows', 'end') THEN PERFORM pg_advisory_xact_lock(hashtextextended('keytide core', 0)); END IF;
    SELECT adopter, adopt_until INTO lock FROM public.keytide_settings FOR UPDATE;
    IF EXISTS (SELECT 1 FROM public.keytide_lineage l WHERE l.hub_id = (was ->> 'id')::uuid AND l.system = was ->> 'system'
                   AND l.timeline = (was ->> 'timeline')::bigint)
        OR greeting -> 'hub' @> was THEN
        RETURN greeting || '{"status": "adopted"}';
    END IF;
    IF lock.adopter IS DISTINCT FROM me AND (lock.adopt_until > clock_timestamp() OR step IS DISTINCT FROM 'begin') THEN
        RETURN greeting || jsonb_build_object('status', 'busy', 'by', lock.adopter, 'until', public.keytide_ms(lock.adopt_until));
    END IF;
    UPDATE public.keytide_settings SET adopter = me, adopt_until = clock_timestamp() + '10 minutes'::interval;

    IF step IN ('look', 'rows') OR step = 'end' AND to_stream <> '' THEN
        missing := CASE WHEN to_stream ~ '^[a-z][a-z0-9_]{0,40}$' THEN public.keytide_missing(to_stream) ELSE ARRAY['a table prefix'] END;
        IF missing <> '{}' THEN
            RETURN greeting || jsonb_build_object('status', 'missing',
                'missing', jsonb_build_array(jsonb_build_object('stream', to_stream, 'what', missing)));
        END IF;
    END IF;
    IF step = 'look' THEN
        SELECT CASE
            WHEN NOT coalesce(bool_or(h.seq > coalesce(k.seq, 0) OR h.seq = k.seq AND h.digest <> k.digest), false) THEN 'behind'
            WHEN NOT coalesce(bool_or(k.seq > coalesce(h.seq, 0) OR h.seq = k.seq AND h.digest <> k.digest), false) THEN 'ahead'
            WHEN bool_or(h.seq > 0 AND k.seq > 0)
                OR greeting -> 'hub' @> jsonb_build_object('id', was -> 'id', 'system', was -> 'system') THEN 'mixed'
            ELSE 'apart' END INTO marks
        FROM (SELECT instance, last_seq AS seq, digest FROM public.keytide_streams WHERE stream = to_stream AND last_seq > 0) h
        FULL JOIN (SELECT (v ->> 'i')::uuid AS instance, public.keytide_int(v -> 's', 0, 9223372036854775807) AS seq,
                          coalesce(v ->> 'g', '') AS digest
                   FROM public.keytide_list(batch -> 'streams')) k USING (instance);
        -- What strangers have told is lost where the totals are raised above it.
        IF marks = 'apart' THEN
            UPDATE public.keytide_streams
            SET answer = answer || '{"adopted": true, "uncertain": true}', stats_xid = pg_current_xact_id(), updated_at = now()
            WHERE stream = to_stream AND last_seq > 0;
        END IF;
    ELSIF step = 'rows' OR step = 'end' AND to_stream <> '' THEN
        -- What the instance knows is to be there again.
        batch := batch || jsonb_build_object(
            'keys', (SELECT coalesce(jsonb_agg(v || '{"add": true}' ORDER BY pos), '[]') FROM public.keytide_list(batch -> 'keys')),
            'tokens', (SELECT coalesce(jsonb_agg(v || '{"add": true}' ORDER BY pos), '[]') FROM public.keytide_list(batch -> 'tokens')),
            'users', (SELECT coalesce(jsonb_agg(v || '{"add": true}' ORDER BY pos), '[]') FROM public.keytide_list(batch -> 'users')));
        PERFORM set_config('keytide.writer', 'on', true);
        IF to_stream = 'core' THEN
            told := public.keytide_apply_core(me, batch, true);
        ELSE
            told := public.keytide_apply(to_stream, request ->> 'provider', batch, true);
        END IF;
        PERFORM set_config('keytide.writer', '', true);
        INSERT INTO public.keytide_streams AS s (instance, stream, last_seq, digest, answer, stats_xid)
        SELECT (v ->> 'i')::uuid, to_stream, public.keytide_int(v -> 's', 0, 9223372036854775807), coalesce(v ->> 'g', ''),
               '{"adopted": true}', pg_current_xact_id()
        FROM public.keytide_list(batch -> 'streams')
        ON CONFLICT (instance, stream) DO UPDATE
        SET last_seq = excluded.last_seq, digest = excluded.digest, answer = excluded.answer, stats_xid = excluded.stats_xid, updated_at = now()
        WHERE s.last_seq < excluded.last_seq;
    ELSIF step = 'restamp' THEN
        -- A stamp that anybody else writes is taken back.
        PERFORM set_config('keytide.writer', 'on', true);
        unstamped := public.keytide_restamp(5000);
        PERFORM set_config('keytide.writer', '', true);
    END IF;
    IF step = 'end' THEN
        INSERT INTO public.keytide_lineage (hub_id, system, timeline, adopted_by)
        VALUES ((was ->> 'id')::uuid, was ->> 'system', (was ->> 'timeline')::bigint, me);
        UPDATE public.keytide_settings SET adopter = NULL, adopt_until = NULL;
    END IF;
    RETURN greeting || jsonb_strip_nulls(jsonb_build_object('status', 'ok', 'left', unstamped, 'marks', marks,
        'rows', jsonb_build_object('clock', told -> 'clock')));
END $$;
