-- Batches: keytide_push applies one, once, whatever its rows hold.

SET client_min_messages = warning;

-- All rows of a batch. Returns how those were answered that were not applied as such.
CREATE OR REPLACE FUNCTION public.keytide_apply(stream text, provider text, batch jsonb, raise boolean) RETURNS jsonb
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    ahead bigint := public.keytide_version() + (300000000::bigint << 10);
    gone jsonb := '[]';
    clock jsonb := '[]';
    expired jsonb := '[]';
    keys public.keytide_key_row[] := '{}';
    tokens public.keytide_token_row[] := '{}';
    key_stats public.keytide_sum_row[];
    token_stats public.keytide_sum_row[];
    models public.keytide_sum_row[];
    hours public.keytide_sum_row[];
    totals public.keytide_sum_row[];
    -- The rows to lock: of keys also those whose statistics have to be made.
    lock_keys text[];
    lock_tokens text[];
    lock_stats text[];
    fresh text[] := '{}';
    gone_keys text[] := '{}';
    gone_tokens text[] := '{}';
    goes boolean;
    moves boolean;
BEGIN
    -- Only lists of rows are read on.
    IF jsonb_typeof(batch) IS DISTINCT FROM 'object' THEN batch := '{}'; END IF;
    IF batch ? 'keys' THEN
        keys := ARRAY(SELECT t FROM public.keytide_key_rows(batch -> 'keys') t);
    END IF;
    IF batch ? 'tokens' THEN
        tokens := ARRAY(SELECT t FROM public.keytide_token_rows(batch -> 'tokens') t);
    END IF;
    key_stats := public.keytide_sums(batch -> 'key_stats', 'k', 2000);
    token_stats := public.keytide_sums(batch -> 'token_stats', 'k', 2000);
    models := public.keytide_sums(batch -> 'models', 'm', 500);
    hours := public.keytide_sums(batch -> 'hours', 'm', 500);
    IF jsonb_typeof(batch -> 'global') = 'object' THEN
        totals := public.keytide_sums(jsonb_build_array(batch -> 'global'), 'id', 1);
    END IF;
    lock_keys := ARRAY(SELECT r.k FROM unnest(keys) r);
    lock_tokens := ARRAY(SELECT r.k FROM unnest(tokens) r) || ARRAY(SELECT r.id FROM unnest(token_stats) r);
    lock_stats := lock_keys || ARRAY(SELECT r.id FROM unnest(key_stats) r);
    goes := EXISTS (SELECT 1 FROM public.keytide_list(batch -> 'gone'));
    moves := goes OR EXISTS (SELECT 1 FROM unnest(keys) r WHERE r.add)
        OR EXISTS (SELECT 1 FROM unnest(tokens) r WHERE r.add);

    -- Whoever makes rows, deletes them, or counts for such as are not there, does so alone: the counts of a key and
    -- those retired of it would else pass each other by, and two who lock rows that are there and make others, each in
    -- order, can come upon each other's the wrong way round when a third has made a row between. The others count side by side.
    IF NOT moves THEN
        EXECUTE format($q$
            SELECT EXISTS (SELECT 1 FROM unnest($2) r WHERE NOT EXISTS (SELECT 1 FROM public.%I k WHERE k.api_key = r.id))
                OR EXISTS (SELECT 1 FROM unnest($3) r WHERE NOT EXISTS (SELECT 1 FROM public.%I k WHERE k.token = r.id))
                OR EXISTS (SELECT 1 FROM unnest($4) r WHERE NOT EXISTS (
                    SELECT 1 FROM public.%I m WHERE m.provider = $1 AND m.model = r.id))
                OR EXISTS (SELECT 1 FROM unnest($5) r WHERE NOT EXISTS (
                    SELECT 1 FROM public.%I m WHERE m.provider = $1 AND m.model = r.id
                      AND m.hour = 'epoch'::timestamptz + r.h * '1 hour'::interval))$q$,
            stream || '_keys', stream || '_client_tokens', stream || '_model_stats', stream || '_model_hourly')
        INTO moves USING provider, key_stats, token_stats, models, hours;
    END IF;
    IF moves THEN
        PERFORM pg_advisory_xact_lock(hashtextextended('keytide ' || stream, 0));
    ELSE
        PERFORM pg_advisory_xact_lock_shared(hashtextextended('keytide ' || stream, 0));
    END IF;
    IF cardinality(key_stats) > 0 THEN
        EXECUTE format($q$
            SELECT ARRAY(SELECT r.id FROM unnest($1) r WHERE NOT EXISTS (SELECT 1 FROM public.%I s WHERE s.api_key = r.id))$q$,
            stream || '_key_stats') INTO fresh USING key_stats;
    END IF;
    IF goes THEN
        EXECUTE format($q$SELECT ARRAY(SELECT api_key FROM public.%I WHERE public.keytide_digest(api_key) IN (
            SELECT v ->> 'id' FROM public.keytide_list($1) WHERE v ->> 't' = 'key'))$q$, stream || '_keys')
        INTO gone_keys USING batch -> 'gone';
        EXECUTE format($q$SELECT ARRAY(SELECT token FROM public.%I WHERE public.keytide_digest(token) IN (
            SELECT v ->> 'id' FROM public.keytide_list($1) WHERE v ->> 't' = 'token'))$q$, stream || '_client_tokens')
        INTO gone_tokens USING batch -> 'gone';
    END IF;
    PERFORM public.keytide_lock(stream, gone_keys || lock_keys || fresh, gone_tokens || lock_tokens, gone_keys || lock_stats);

    IF goes THEN
        clock := clock || public.keytide_places('gone', public.keytide_apply_gone(
            stream, batch -> 'gone', ahead, gone_keys, gone_tokens));
    END IF;
    IF cardinality(keys) > 0 THEN
        clock := clock || public.keytide_places('keys', ARRAY(SELECT r.pos FROM unnest(keys) r WHERE r.top > ahead));
        gone := gone || public.keytide_places('keys', public.keytide_apply_keys(stream, keys, ahead));
    END IF;
    IF cardinality(tokens) > 0 THEN
        clock := clock || public.keytide_places('tokens', ARRAY(SELECT r.pos FROM unnest(tokens) r WHERE r.top > ahead));
        gone := gone || public.keytide_places('tokens', public.keytide_apply_tokens(stream, tokens, ahead));
    END IF;
    IF cardinality(key_stats) > 0 THEN
        gone := gone || public.keytide_places('key_stats', public.keytide_apply_key_stats(stream, key_stats, raise));
    END IF;
    IF cardinality(token_stats) > 0 THEN
        gone := gone || public.keytide_places('token_stats', public.keytide_apply_token_stats(stream, token_stats, raise));
    END IF;
    IF cardinality(models) > 0 THEN
        PERFORM public.keytide_apply_models(stream, provider, models, raise);
    END IF;
    IF cardinality(hours) > 0 THEN
        expired := public.keytide_places('hours', public.keytide_apply_hours(stream, provider, hours, raise));
    END IF;
    IF cardinality(totals) > 0 THEN
        PERFORM public.keytide_apply_global(stream, totals, raise);
    END IF;
    RETURN jsonb_strip_nulls(jsonb_build_object(
        'gone', nullif(gone, '[]'), 'expired', nullif(expired, '[]'), 'clock', nullif(clock, '[]')));
END $$;

CREATE OR REPLACE FUNCTION public.keytide_places(list text, places bigint[]) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(jsonb_agg(jsonb_build_array(list, p) ORDER BY p), '[]') FROM unnest(places) p
$$;

-- A batch goes to its rows by their keys, whatever the planner makes of tables it has no statistics of; with that, what
-- little is read otherwise looks costly enough to be compiled.
CREATE OR REPLACE FUNCTION public.keytide_push(request jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = '' SET enable_seqscan = off SET jit = off AS $$
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
    -- What is meant for another database would be counted here and there.
    IF jsonb_typeof(request -> 'hub') = 'object' AND NOT public.keytide_is_hub(request -> 'hub') THEN
        RETURN public.keytide_greeting() || '{"status": "elsewhere"}';
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
                'status', 'mismatch', 'seq', held.last_seq, 'digest', held.digest,
                'rows', coalesce(held.answer, '{}'));
        END IF;
        EXIT WHEN turn = 2;
        IF current_setting('transaction_read_only') = 'on' THEN
            RETURN public.keytide_greeting() || jsonb_build_object(
                'status', 'read_only', 'seq', held.last_seq, 'digest', held.digest);
        END IF;
        -- Until somebody has made this the hub again, totals are not what they will be.
        PERFORM pg_advisory_xact_lock_shared(hashtextextended('keytide adopt', 0));
        IF EXISTS (SELECT 1 FROM public.keytide_settings WHERE adopter IS NOT NULL AND adopt_until > clock_timestamp()) THEN
            RETURN public.keytide_greeting() || jsonb_build_object(
                'status', 'busy', 'seq', held.last_seq, 'digest', held.digest);
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
    IF to_stream = 'core' THEN
        told := public.keytide_apply_core(me, request -> 'rows', false);
    ELSE
        told := public.keytide_apply(to_stream, request ->> 'provider', request -> 'rows', false);
    END IF;
    PERFORM set_config('keytide.writer', '', true);
    -- Whoever sends this may not have heard that what it told before is in doubt.
    IF held.answer @> '{"adopted": true, "uncertain": true}' THEN told := told || '{"uncertain": true}'; END IF;
    UPDATE public.keytide_streams s
    SET last_seq = wanted, digest = request ->> 'digest', answer = told, stats_xid = pg_current_xact_id(), updated_at = now()
    WHERE s.instance = me AND s.stream = to_stream;
    RETURN public.keytide_greeting() || jsonb_build_object(
        'status', 'applied', 'seq', wanted, 'digest', request ->> 'digest', 'rows', told);
END $$;
