-- A batch's counters.

SET client_min_messages = warning;

-- Counts of keys. Those whose key is not there go to the retired counts; returns their positions.
CREATE OR REPLACE FUNCTION public.keytide_apply_key_stats(stream text, list public.keytide_sum_row[], raise boolean) RETURNS bigint[]
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
            FROM unnest($1) r WHERE t.api_key = r.id RETURNING t.api_key
        ) SELECT coalesce(array_agg(api_key), '{}') FROM done$q$, stream || '_key_stats') INTO done USING list, raise;
    IF cardinality(done) = cardinality(list) THEN RETURN '{}'; END IF;
    EXECUTE format($q$
        WITH made AS (
            INSERT INTO public.%1$I AS t (api_key, total_requests, success_count, failure_count, success_rate, last_used,
                                        last_success, last_failure, consecutive_failures, stats_xid)
            SELECT r.id, r.s + r.f + r.o, r.s, r.f, public.keytide_rate(r.s, r.s + r.f + r.o), r.lu, r.ls, r.lf,
                   k.consecutive_failures, pg_current_xact_id()
            FROM unnest($1) r JOIN public.%2$I k ON k.api_key = r.id
            WHERE NOT EXISTS (SELECT 1 FROM unnest($2) AS one (name) WHERE one.name = r.id) ORDER BY r.id COLLATE "C"
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
    IF EXISTS (SELECT 1 FROM public.keytide_tombstones t
               WHERE t.stream = keytide_apply_key_stats.stream AND t.kind = 'key_stats') THEN
        DELETE FROM public.keytide_tombstones t
        WHERE t.stream = keytide_apply_key_stats.stream AND t.kind = 'key_stats'
          AND t.id IN (SELECT public.keytide_digest(m) FROM unnest(made) AS m);
    END IF;
    IF cardinality(done) + cardinality(made) = cardinality(list) THEN RETURN '{}'; END IF;
    SELECT coalesce(array_agg(r.pos ORDER BY r.pos), '{}') INTO gone
    FROM unnest(list) r WHERE NOT EXISTS (SELECT 1 FROM unnest(done || made) AS one (name) WHERE one.name = r.id);
    IF NOT raise AND cardinality(gone) > 0 THEN
        PERFORM public.keytide_retire(stream, 'key', public.keytide_digest(r.id), r.s + r.f + r.o, r.s, r.f, 0, 0, r.lu,
                                      r.ls, r.lf)
        FROM (SELECT * FROM unnest(list) r WHERE r.pos = ANY (gone)
              ORDER BY public.keytide_digest(r.id)) r;
        -- One that other hands have made meanwhile had nothing to give back yet.
        EXECUTE format($q$
            SELECT coalesce(array_agg(r.id ORDER BY r.id COLLATE "C"), '{}') FROM unnest($1) r JOIN public.%I k ON k.api_key = r.id
            WHERE r.pos = ANY ($2)$q$, stream || '_keys') INTO made USING list, gone;
        PERFORM public.keytide_restore_key(stream, m) FROM unnest(made) m;
        gone := ARRAY(SELECT r.pos FROM unnest(list) r WHERE r.pos = ANY (gone) AND r.id <> ALL (made) ORDER BY r.pos);
    END IF;
    RETURN gone;
END $$;

CREATE OR REPLACE FUNCTION public.keytide_apply_token_stats(stream text, list public.keytide_sum_row[], raise boolean) RETURNS bigint[]
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
                request_count = public.keytide_total(t.request_count, t.success_count, t.failure_count, r.s, r.f, r.o, $2),
                prompt_tokens = public.keytide_more(t.prompt_tokens, r.p, $2),
                completion_tokens = public.keytide_more(t.completion_tokens, r.q, $2),
                last_used = greatest(t.last_used, r.lu), stats_xid = pg_current_xact_id()
            FROM unnest($1) r WHERE t.token = r.id RETURNING t.token
        ) SELECT coalesce(array_agg(token), '{}') FROM done$q$, stream || '_client_tokens') INTO done USING list, raise;
    IF cardinality(done) = cardinality(list) THEN RETURN '{}'; END IF;
    SELECT coalesce(array_agg(r.pos ORDER BY r.pos), '{}') INTO gone
    FROM unnest(list) r WHERE NOT EXISTS (SELECT 1 FROM unnest(done) AS one (name) WHERE one.name = r.id);
    IF NOT raise AND cardinality(gone) > 0 THEN
        PERFORM public.keytide_retire(stream, 'token', public.keytide_digest(r.id), r.s + r.f + r.o, r.s, r.f, r.p, r.q,
                                      r.lu, NULL, NULL)
        FROM (SELECT * FROM unnest(list) r WHERE r.pos = ANY (gone)
              ORDER BY public.keytide_digest(r.id)) r;
        EXECUTE format($q$
            SELECT coalesce(array_agg(r.id ORDER BY r.id COLLATE "C"), '{}') FROM unnest($1) r JOIN public.%I k ON k.token = r.id
            WHERE r.pos = ANY ($2)$q$, stream || '_client_tokens') INTO made USING list, gone;
        PERFORM public.keytide_restore_token(stream, m) FROM unnest(made) m;
        gone := ARRAY(SELECT r.pos FROM unnest(list) r WHERE r.pos = ANY (gone) AND r.id <> ALL (made) ORDER BY r.pos);
    END IF;
    RETURN gone;
END $$;

-- Counts of models. Whatever a model is called, it has a row.
CREATE OR REPLACE FUNCTION public.keytide_apply_models(stream text, provider text, list public.keytide_sum_row[], raise boolean) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    done bigint[];
    target text := stream || '_model_stats';
BEGIN
    EXECUTE format($q$
        SELECT 1 FROM public.%I WHERE provider = $2 AND model IN (SELECT id FROM unnest($1))
        ORDER BY model COLLATE "C" FOR UPDATE$q$, target) USING list, provider;
    EXECUTE format($q$
        WITH done AS (
            UPDATE public.%I t
            SET success_count = public.keytide_more(t.success_count, r.s, $3),
                failure_count = public.keytide_more(t.failure_count, r.f, $3),
                total_requests = public.keytide_total(t.total_requests, t.success_count, t.failure_count, r.s, r.f, r.o, $3),
                prompt_tokens = public.keytide_more(t.prompt_tokens, r.p, $3),
                completion_tokens = public.keytide_more(t.completion_tokens, r.q, $3),
                last_used = greatest(t.last_used, r.lu), stats_xid = pg_current_xact_id()
            FROM unnest($1) r WHERE t.provider = $2 AND t.model = r.id RETURNING r.pos
        ) SELECT coalesce(array_agg(pos), '{}') FROM done$q$, target) INTO done
    USING list, provider, raise;
    IF cardinality(done) = cardinality(list) THEN RETURN; END IF;
    -- What was not updated, even if another batch has made its row by now.
    EXECUTE format($q$
        WITH made AS (
            INSERT INTO public.%I AS t (provider, model, total_requests, success_count, failure_count, prompt_tokens,
                                          completion_tokens, last_used, stats_xid)
            SELECT $2, r.id, r.s + r.f + r.o, r.s, r.f, r.p, r.q, r.lu, pg_current_xact_id()
            FROM unnest($1) r
            WHERE NOT EXISTS (SELECT 1 FROM unnest($5) AS one (pos) WHERE one.pos = r.pos)
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
        WHERE t.stream = $4 AND t.kind = 'model' AND t.id = m.model$q$, target)
    USING list, provider, raise, stream, done;
END $$;

-- Counts of models by the hour. Returns the positions of those that are no longer kept, or lie days ahead.
CREATE OR REPLACE FUNCTION public.keytide_apply_hours(stream text, provider text, list public.keytide_sum_row[], raise boolean) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    target text := stream || '_model_hourly';
    done bigint[];
    oldest bigint := ceil(extract(epoch FROM public.keytide_now() - '30 days'::interval) / 3600)::bigint;
    latest bigint := oldest + 32 * 24;
BEGIN
    oldest := greatest(oldest, (SELECT s.hours_from FROM public.keytide_settings s));
    EXECUTE format($q$
        SELECT 1 FROM public.%I t
        WHERE provider = $2 AND (hour, model) IN (
            SELECT 'epoch'::timestamptz + h * '1 hour'::interval, id FROM unnest($1)
            WHERE h BETWEEN $3 AND $4)
        ORDER BY hour, model COLLATE "C" FOR UPDATE$q$, target) USING list, provider, oldest, latest;
    EXECUTE format($q$
        WITH done AS (
            UPDATE public.%I t
            SET success = public.keytide_more(t.success, r.s, $3), failure = public.keytide_more(t.failure, r.f, $3),
                requests = public.keytide_total(t.requests, t.success, t.failure, r.s, r.f, r.o, $3),
                prompt_tokens = public.keytide_more(t.prompt_tokens, r.p, $3),
                completion_tokens = public.keytide_more(t.completion_tokens, r.q, $3), stats_xid = pg_current_xact_id()
            FROM unnest($1) r
            WHERE r.h BETWEEN $4 AND $5 AND t.provider = $2 AND t.model = r.id
              AND t.hour = 'epoch'::timestamptz + r.h * '1 hour'::interval
            RETURNING r.pos
        ) SELECT coalesce(array_agg(pos), '{}') FROM done$q$, target) INTO done
    USING list, provider, raise, oldest, latest;
    EXECUTE format($q$
        INSERT INTO public.%I AS t (provider, model, hour, requests, success, failure, prompt_tokens, completion_tokens,
                                      created_at, stats_xid)
        SELECT $2, r.id, 'epoch'::timestamptz + r.h * '1 hour'::interval, r.s + r.f + r.o, r.s, r.f, r.p, r.q, now(),
               pg_current_xact_id()
        FROM unnest($1) r
        WHERE r.h BETWEEN $4 AND $5 AND NOT EXISTS (SELECT 1 FROM unnest($6) AS one (pos) WHERE one.pos = r.pos)
        ORDER BY r.h, r.id COLLATE "C"
        ON CONFLICT (provider, model, hour) DO UPDATE
        SET success = public.keytide_more(t.success, excluded.success, $3),
            failure = public.keytide_more(t.failure, excluded.failure, $3),
            requests = public.keytide_more(t.requests, excluded.requests, $3),
            prompt_tokens = public.keytide_more(t.prompt_tokens, excluded.prompt_tokens, $3),
            completion_tokens = public.keytide_more(t.completion_tokens, excluded.completion_tokens, $3),
            stats_xid = excluded.stats_xid$q$, target)
    USING list, provider, raise, oldest, latest, done;
    RETURN ARRAY(SELECT r.pos FROM unnest(list) r
                 WHERE (r.h BETWEEN oldest AND latest) IS NOT TRUE ORDER BY r.pos);
END $$;

-- All requests. Last, since everybody wants this row.
CREATE OR REPLACE FUNCTION public.keytide_apply_global(stream text, list public.keytide_sum_row[], raise boolean) RETURNS void
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
        FROM unnest($1) r WHERE t.id = 'global'$q$, stream || '_global_stats') USING list, raise;
    GET DIAGNOSTICS done = ROW_COUNT;
    IF done > 0 THEN RETURN; END IF;
    EXECUTE format($q$
        INSERT INTO public.%I AS t (id, total_requests, success_count, failure_count, prompt_tokens, completion_tokens,
                                    last_used, updated_at, stats_xid)
        SELECT 'global', r.s + r.f + r.o, r.s, r.f, r.p, r.q, r.lu, now(), pg_current_xact_id()
        FROM unnest($1) r
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
