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
