-- What deleting and adding means, and the triggers by which other programs' writes become changes like keytide's own.

SET client_min_messages = warning;

-- Writes a tombstone, or moves one forward.
CREATE OR REPLACE FUNCTION public.keytide_bury(of_stream text, of_kind text, of_id text, at_version bigint) RETURNS void
LANGUAGE sql VOLATILE AS $$
    INSERT INTO public.keytide_tombstones AS t (stream, kind, id, version, deleted_at, state_xid)
    VALUES (of_stream, of_kind, of_id, at_version, now(), pg_current_xact_id())
    ON CONFLICT (stream, kind, id) DO UPDATE
    SET version = excluded.version, deleted_at = excluded.deleted_at, state_xid = excluded.state_xid
    WHERE t.version < excluded.version
$$;

-- Adds to the counts of what is deleted. The total covers what succeeded and failed, as instances read it.
CREATE OR REPLACE FUNCTION public.keytide_retire(
    of_stream text, of_kind text, of_id text, total bigint, success bigint, failure bigint, prompt bigint,
    completion bigint, used timestamptz, succeeded timestamptz, failed timestamptz
) RETURNS void LANGUAGE sql VOLATILE AS $$
    INSERT INTO public.keytide_retired AS r
    VALUES (of_stream, of_kind, of_id, greatest(coalesce(total, 0), public.keytide_plus(success, failure)),
            coalesce(success, 0), coalesce(failure, 0),
            coalesce(prompt, 0), coalesce(completion, 0), used, succeeded, failed)
    ON CONFLICT (stream, kind, id) DO UPDATE
    SET total_requests = public.keytide_plus(r.total_requests, excluded.total_requests),
        success_count = public.keytide_plus(r.success_count, excluded.success_count),
        failure_count = public.keytide_plus(r.failure_count, excluded.failure_count),
        prompt_tokens = public.keytide_plus(r.prompt_tokens, excluded.prompt_tokens),
        completion_tokens = public.keytide_plus(r.completion_tokens, excluded.completion_tokens),
        last_used = greatest(r.last_used, excluded.last_used),
        last_success = greatest(r.last_success, excluded.last_success),
        last_failure = greatest(r.last_failure, excluded.last_failure)
$$;

-- Moves a key's statistics to the retired counts. Before its row goes, so that a foreign key does not matter.
CREATE OR REPLACE FUNCTION public.keytide_retire_key(of_stream text, secret text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    was record;
    writer text := coalesce(current_setting('keytide.writer', true), '');
BEGIN
    PERFORM set_config('keytide.writer', 'on', true);
    EXECUTE format('DELETE FROM public.%I WHERE api_key = $1 RETURNING *', of_stream || '_key_stats') INTO was USING secret;
    PERFORM set_config('keytide.writer', writer, true);
    IF was.api_key IS NOT NULL THEN
        PERFORM public.keytide_retire(of_stream, 'key', public.keytide_digest(secret), was.total_requests,
            was.success_count, was.failure_count, 0, 0, was.last_used, was.last_success, was.last_failure);
    END IF;
END $$;

-- Takes the retired counts of what is added away; nothing where there are none. Whoever makes a row and
-- whoever retires counts of it write this one, and so wait for each other: else each would pass by what the other does.
CREATE OR REPLACE FUNCTION public.keytide_unretire(of_stream text, of_kind text, of_id text) RETURNS public.keytide_retired
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    was public.keytide_retired;
BEGIN
    PERFORM public.keytide_retire(of_stream, of_kind, of_id, 0, 0, 0, 0, 0, NULL, NULL, NULL);
    DELETE FROM public.keytide_retired r WHERE r.stream = of_stream AND r.kind = of_kind AND r.id = of_id RETURNING * INTO was;
    IF greatest(was.total_requests, was.success_count, was.failure_count, was.prompt_tokens, was.completion_tokens) = 0
        AND coalesce(was.last_used, was.last_success, was.last_failure) IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN was;
END $$;

-- Gives an added key its counts back, and takes its tombstone away.
CREATE OR REPLACE FUNCTION public.keytide_restore_key(of_stream text, secret text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    was public.keytide_retired;
    writer text := coalesce(current_setting('keytide.writer', true), '');
BEGIN
    DELETE FROM public.keytide_tombstones
    WHERE stream = of_stream AND kind = 'key' AND id = public.keytide_digest(secret);
    was := public.keytide_unretire(of_stream, 'key', public.keytide_digest(secret));
    IF was.id IS NULL THEN RETURN; END IF;
    PERFORM set_config('keytide.writer', 'on', true);
    EXECUTE format($q$
        INSERT INTO public.%I AS s (api_key, total_requests, success_count, failure_count, success_rate, last_used,
                                    last_success, last_failure, consecutive_failures, stats_xid)
        VALUES ($1, $2, $3, $4, public.keytide_rate($3, $2), $5, $6, $7, 0, pg_current_xact_id())
        ON CONFLICT (api_key) DO UPDATE
        SET total_requests = public.keytide_plus(s.total_requests, excluded.total_requests),
            success_count = public.keytide_plus(s.success_count, excluded.success_count),
            failure_count = public.keytide_plus(s.failure_count, excluded.failure_count),
            success_rate = public.keytide_rate(public.keytide_plus(s.success_count, excluded.success_count),
                                               public.keytide_plus(s.total_requests, excluded.total_requests)),
            last_used = greatest(s.last_used, excluded.last_used),
            last_success = greatest(s.last_success, excluded.last_success),
            last_failure = greatest(s.last_failure, excluded.last_failure),
            stats_xid = excluded.stats_xid$q$, of_stream || '_key_stats')
    USING secret, was.total_requests, was.success_count, was.failure_count, was.last_used, was.last_success,
          was.last_failure;
    PERFORM set_config('keytide.writer', writer, true);
END $$;

-- The triggers: what other programs and people write is stamped as keytide's own writes are. Each is told its
-- table prefix. They see nothing of keytide's writes (the triggers' WHEN), and run with the owner's rights, so that
-- a program that may write these tables needs no rights on ours.

CREATE OR REPLACE FUNCTION public.keytide_keys_write() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    gone bigint;
    installed timestamptz;
    enabled boolean;
    failed timestamptz;
    expires timestamptz;
    epoch bigint;
    lowered boolean;
    hour constant interval := '1 hour';
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.api_key IS DISTINCT FROM OLD.api_key THEN
        PERFORM public.keytide_retire_key(TG_ARGV[0], OLD.api_key);
        PERFORM public.keytide_bury(TG_ARGV[0], 'key', public.keytide_digest(OLD.api_key), public.keytide_next(OLD.added_v));
    END IF;
    IF TG_OP = 'INSERT' OR NEW.api_key IS DISTINCT FROM OLD.api_key THEN
        SELECT version INTO gone FROM public.keytide_tombstones
        WHERE stream = TG_ARGV[0] AND kind = 'key' AND id = public.keytide_digest(NEW.api_key);
        NEW.added_v := public.keytide_next(gone);
        NEW.username_v := NULL; NEW.note_v := NULL; NEW.expires_v := NULL;
        NEW.weight_v := NULL; NEW.enabled_v := NULL; NEW.disabled_v := NULL; NEW.owner_v := NULL; NEW.health_epoch := NULL;
        NEW.created_at := coalesce(NEW.created_at, now());
        NEW.status := coalesce(NEW.status, 'active');
        IF TG_OP = 'INSERT' THEN
            NEW.enabled := coalesce(NEW.enabled, NOT (NEW.status = 'disabled' AND NEW.disabled_until IS NULL));
        END IF;
        IF NEW.status = 'failed' AND NEW.failed_until IS NULL THEN NEW.failed_until := now() + hour; END IF;
        IF NEW.status = 'expired' AND (NEW.expires_at IS NULL OR NEW.expires_at > now()) THEN NEW.expires_at := now(); END IF;
        NEW.weight := coalesce(NEW.weight, 1);
        NEW.state_xid := pg_current_xact_id();
        RETURN NEW;
    END IF;

    -- Stamps are ours alone.
    NEW.added_v := OLD.added_v; NEW.username_v := OLD.username_v; NEW.note_v := OLD.note_v;
    NEW.expires_v := OLD.expires_v; NEW.weight_v := OLD.weight_v; NEW.enabled_v := OLD.enabled_v;
    NEW.disabled_v := OLD.disabled_v; NEW.owner_v := OLD.owner_v; NEW.health_epoch := OLD.health_epoch;
    NEW.state_xid := OLD.state_xid;
    IF NEW IS NOT DISTINCT FROM OLD THEN RETURN NEW; END IF;

    -- What the row meant before: of one that nobody has touched since the schema came, its status says so.
    enabled := OLD.enabled; failed := OLD.failed_until; expires := OLD.expires_at;
    IF enabled IS NULL THEN
        SELECT installed_at INTO installed FROM public.keytide_settings;
        enabled := NOT coalesce(OLD.status = 'disabled' AND OLD.disabled_until IS NULL, false);
        IF OLD.status = 'failed' AND failed IS NULL THEN failed := installed + hour; END IF;
        IF OLD.status = 'expired' AND expires IS NULL THEN expires := installed; END IF;
        IF NEW.failed_until IS NULL AND NEW.status IS NOT DISTINCT FROM OLD.status THEN NEW.failed_until := failed; END IF;
        IF NEW.expires_at IS NULL AND NEW.status IS NOT DISTINCT FROM OLD.status THEN NEW.expires_at := expires; END IF;
    END IF;
    IF NEW.enabled IS NULL THEN NEW.enabled := enabled; END IF;

    lowered := NEW.failed_until IS NULL AND failed IS NOT NULL OR NEW.failed_until < failed
        OR coalesce(NEW.consecutive_failures, 0) < coalesce(OLD.consecutive_failures, 0)
        OR coalesce(NEW.auth_failures, 0) < OLD.auth_failures OR coalesce(NEW.server_failures, 0) < OLD.server_failures
        OR OLD.needs_verification AND NOT coalesce(NEW.needs_verification, false);
    IF NEW.status IS DISTINCT FROM OLD.status
        OR NEW.status = 'disabled' AND NEW.disabled_until IS DISTINCT FROM OLD.disabled_until THEN
        CASE NEW.status
        WHEN 'disabled' THEN
            NEW.enabled := NEW.disabled_until IS NOT NULL;
        WHEN 'active' THEN
            NEW.enabled := true;
            lowered := true;
            IF NEW.failed_until IS NOT DISTINCT FROM failed THEN NEW.failed_until := NULL; END IF;
            IF NEW.disabled_until IS NOT DISTINCT FROM OLD.disabled_until AND NEW.disabled_until > now() THEN
                NEW.disabled_until := NULL;
            END IF;
            NEW.fail_cause := NULL;
            NEW.consecutive_failures := 0; NEW.auth_failures := 0; NEW.server_failures := 0;
            NEW.needs_verification := false;
        WHEN 'failed' THEN
            IF NEW.failed_until IS NULL OR NEW.failed_until <= now() AND NEW.failed_until IS NOT DISTINCT FROM failed THEN
                lowered := lowered AND coalesce(NEW.consecutive_failures, 0) < coalesce(OLD.consecutive_failures, 0);
                NEW.failed_until := greatest(now() + hour, failed);
            END IF;
        WHEN 'expired' THEN
            IF NEW.expires_at IS NULL OR NEW.expires_at > now() THEN NEW.expires_at := now(); END IF;
        ELSE
            NULL;
        END CASE;
    ELSIF NEW.enabled IS DISTINCT FROM enabled OR NEW.needs_verification IS DISTINCT FROM OLD.needs_verification THEN
        NEW.status := CASE WHEN NOT NEW.enabled THEN 'disabled' WHEN NEW.needs_verification THEN 'failed' ELSE 'active' END;
    END IF;

    IF lowered THEN
        NEW.health_epoch := public.keytide_next(coalesce(OLD.health_epoch, OLD.added_v));
        IF NEW.failed_until IS NULL THEN NEW.fail_cause := NULL; END IF;
    END IF;
    IF NEW.username IS DISTINCT FROM OLD.username THEN
        NEW.username_v := public.keytide_next(coalesce(OLD.username_v, OLD.added_v));
    END IF;
    IF NEW.note IS DISTINCT FROM OLD.note THEN
        NEW.note_v := public.keytide_next(coalesce(OLD.note_v, OLD.added_v));
    END IF;
    IF NEW.expires_at IS DISTINCT FROM expires THEN
        NEW.expires_v := public.keytide_next(coalesce(OLD.expires_v, OLD.added_v));
    END IF;
    NEW.weight := coalesce(NEW.weight, 1);
    IF NEW.weight IS DISTINCT FROM OLD.weight THEN
        NEW.weight_v := public.keytide_next(coalesce(OLD.weight_v, OLD.added_v));
    END IF;
    IF NEW.enabled IS DISTINCT FROM enabled THEN
        NEW.enabled_v := public.keytide_next(coalesce(OLD.enabled_v, OLD.added_v));
    END IF;
    IF NEW.disabled_until IS DISTINCT FROM OLD.disabled_until THEN
        NEW.disabled_v := public.keytide_next(coalesce(OLD.disabled_v, OLD.added_v));
    END IF;
    IF NEW.owner IS DISTINCT FROM OLD.owner THEN
        NEW.owner_v := public.keytide_next(coalesce(OLD.owner_v, OLD.added_v));
    END IF;
    NEW.state_xid := pg_current_xact_id();
    RETURN NEW;
END $$;

-- After a key was added, since its statistics may refer to it.
CREATE OR REPLACE FUNCTION public.keytide_keys_added() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    PERFORM public.keytide_restore_key(TG_ARGV[0], NEW.api_key);
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION public.keytide_keys_delete() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    was record;
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM public.keytide_retire_key(TG_ARGV[0], OLD.api_key);
        PERFORM public.keytide_bury(TG_ARGV[0], 'key', public.keytide_digest(OLD.api_key), public.keytide_next(OLD.added_v));
        RETURN OLD;
    END IF;
    FOR was IN EXECUTE format('SELECT api_key, added_v FROM public.%I', TG_TABLE_NAME) LOOP
        PERFORM public.keytide_retire_key(TG_ARGV[0], was.api_key);
        PERFORM public.keytide_bury(TG_ARGV[0], 'key', public.keytide_digest(was.api_key), public.keytide_next(was.added_v));
    END LOOP;
    RETURN NULL;
END $$;

-- A counter as someone else wants it: higher is an increment, lower was read before others counted, 0 is a reset.
CREATE OR REPLACE FUNCTION public.keytide_counter(old bigint, new bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN new IS NULL THEN old WHEN new = 0 OR new > coalesce(old, 0) THEN new ELSE old END
$$;

-- Of a row that was read before others counted, one column may raise what is there and another not. What succeeded
-- and what failed was asked for, which is also how instances read the row.
CREATE OR REPLACE FUNCTION public.keytide_covering(total bigint, success bigint, failure bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT greatest(total, public.keytide_plus(coalesce(success, 0), coalesce(failure, 0)))
$$;

CREATE OR REPLACE FUNCTION public.keytide_key_stats_write() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.api_key IS NOT DISTINCT FROM OLD.api_key THEN
        NEW.stats_xid := OLD.stats_xid;
        IF NEW IS NOT DISTINCT FROM OLD THEN RETURN NEW; END IF;
        IF NEW.total_requests < OLD.total_requests AND NEW.total_requests <> 0
            OR NEW.success_count < OLD.success_count AND NEW.success_count <> 0
            OR NEW.failure_count < OLD.failure_count AND NEW.failure_count <> 0 THEN
            PERFORM public.keytide_report('counter_lowered', TG_TABLE_NAME);
        END IF;
        IF NEW.total_requests = 0 AND NEW.success_count IS NOT DISTINCT FROM OLD.success_count
            AND NEW.failure_count IS NOT DISTINCT FROM OLD.failure_count THEN
            NEW.success_count := 0; NEW.failure_count := 0;
        END IF;
        NEW.total_requests := public.keytide_counter(OLD.total_requests, NEW.total_requests);
        NEW.success_count := public.keytide_counter(OLD.success_count, NEW.success_count);
        NEW.failure_count := public.keytide_counter(OLD.failure_count, NEW.failure_count);
        NEW.last_used := greatest(OLD.last_used, NEW.last_used);
        NEW.last_success := greatest(OLD.last_success, NEW.last_success);
        NEW.last_failure := greatest(OLD.last_failure, NEW.last_failure);
    ELSIF TG_OP = 'UPDATE' THEN
        PERFORM public.keytide_bury(TG_ARGV[0], 'key_stats', public.keytide_digest(OLD.api_key), public.keytide_version());
    END IF;
    NEW.total_requests := public.keytide_covering(NEW.total_requests, NEW.success_count, NEW.failure_count);
    NEW.success_rate := public.keytide_rate(NEW.success_count, NEW.total_requests);
    NEW.stats_xid := pg_current_xact_id();
    RETURN NEW;
END $$;

-- Global and model statistics.
CREATE OR REPLACE FUNCTION public.keytide_totals_write() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        NEW.stats_xid := OLD.stats_xid;
        IF NEW IS NOT DISTINCT FROM OLD THEN RETURN NEW; END IF;
        IF NEW.total_requests < OLD.total_requests AND NEW.total_requests <> 0
            OR NEW.success_count < OLD.success_count AND NEW.success_count <> 0
            OR NEW.failure_count < OLD.failure_count AND NEW.failure_count <> 0 THEN
            PERFORM public.keytide_report('counter_lowered', TG_TABLE_NAME);
        END IF;
        IF NEW.total_requests = 0 AND NEW.success_count IS NOT DISTINCT FROM OLD.success_count
            AND NEW.failure_count IS NOT DISTINCT FROM OLD.failure_count THEN
            NEW.success_count := 0; NEW.failure_count := 0;
        END IF;
        NEW.total_requests := public.keytide_counter(OLD.total_requests, NEW.total_requests);
        NEW.success_count := public.keytide_counter(OLD.success_count, NEW.success_count);
        NEW.failure_count := public.keytide_counter(OLD.failure_count, NEW.failure_count);
        NEW.prompt_tokens := public.keytide_counter(OLD.prompt_tokens, NEW.prompt_tokens);
        NEW.completion_tokens := public.keytide_counter(OLD.completion_tokens, NEW.completion_tokens);
        NEW.last_used := greatest(OLD.last_used, NEW.last_used);
    END IF;
    NEW.total_requests := public.keytide_covering(NEW.total_requests, NEW.success_count, NEW.failure_count);
    NEW.stats_xid := pg_current_xact_id();
    RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION public.keytide_hours_write() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        NEW.stats_xid := OLD.stats_xid;
        IF NEW IS NOT DISTINCT FROM OLD THEN RETURN NEW; END IF;
        IF NEW.requests < OLD.requests AND NEW.requests <> 0 OR NEW.success < OLD.success AND NEW.success <> 0
            OR NEW.failure < OLD.failure AND NEW.failure <> 0 THEN
            PERFORM public.keytide_report('counter_lowered', TG_TABLE_NAME);
        END IF;
        IF NEW.requests = 0 AND NEW.success IS NOT DISTINCT FROM OLD.success
            AND NEW.failure IS NOT DISTINCT FROM OLD.failure THEN
            NEW.success := 0; NEW.failure := 0;
        END IF;
        NEW.requests := public.keytide_counter(OLD.requests, NEW.requests);
        NEW.success := public.keytide_counter(OLD.success, NEW.success);
        NEW.failure := public.keytide_counter(OLD.failure, NEW.failure);
        NEW.prompt_tokens := public.keytide_counter(OLD.prompt_tokens, NEW.prompt_tokens);
        NEW.completion_tokens := public.keytide_counter(OLD.completion_tokens, NEW.completion_tokens);
    END IF;
    NEW.requests := public.keytide_covering(NEW.requests, NEW.success, NEW.failure);
    NEW.stats_xid := pg_current_xact_id();
    RETURN NEW;
END $$;

-- Statistics that were made again are not deleted any more.
CREATE OR REPLACE FUNCTION public.keytide_stats_added() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    id_of text;
BEGIN
    id_of := CASE TG_ARGV[1] WHEN 'key_stats' THEN public.keytide_digest(to_jsonb(NEW) ->> 'api_key')
                             WHEN 'model' THEN to_jsonb(NEW) ->> 'model' ELSE 'global' END;
    DELETE FROM public.keytide_tombstones WHERE stream = TG_ARGV[0] AND kind = TG_ARGV[1] AND id = id_of;
    RETURN NULL;
END $$;

-- Statistics that someone else deletes start again from nothing, which instances have to be told.
CREATE OR REPLACE FUNCTION public.keytide_stats_delete() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    id_of text;
    from_where text := CASE WHEN TG_OP = 'DELETE' THEN 'SELECT $1' ELSE format('SELECT to_jsonb(t) FROM public.%I t', TG_TABLE_NAME) END;
    was jsonb;
BEGIN
    FOR was IN EXECUTE from_where USING CASE WHEN TG_OP = 'DELETE' THEN to_jsonb(OLD) END LOOP
        id_of := CASE TG_ARGV[1] WHEN 'key_stats' THEN public.keytide_digest(was ->> 'api_key')
                                 WHEN 'model' THEN was ->> 'model' ELSE 'global' END;
        PERFORM public.keytide_bury(TG_ARGV[0], TG_ARGV[1], id_of, public.keytide_version());
    END LOOP;
    RETURN OLD;
END $$;

CREATE OR REPLACE FUNCTION public.keytide_tokens_write() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    gone bigint;
    was record;
BEGIN
    IF TG_OP = 'INSERT' OR NEW.token IS DISTINCT FROM OLD.token THEN
        IF TG_OP = 'UPDATE' THEN
            PERFORM public.keytide_retire(TG_ARGV[0], 'token', public.keytide_digest(OLD.token), OLD.request_count,
                OLD.success_count, OLD.failure_count, OLD.prompt_tokens, OLD.completion_tokens, OLD.last_used, NULL, NULL);
            PERFORM public.keytide_bury(TG_ARGV[0], 'token', public.keytide_digest(OLD.token), public.keytide_next(OLD.added_v));
            NEW.request_count := 0; NEW.success_count := 0; NEW.failure_count := 0;
            NEW.prompt_tokens := 0; NEW.completion_tokens := 0; NEW.last_used := NULL;
        END IF;
        SELECT version INTO gone FROM public.keytide_tombstones
        WHERE stream = TG_ARGV[0] AND kind = 'token' AND id = public.keytide_digest(NEW.token);
        NEW.added_v := public.keytide_next(gone);
        NEW.name_v := NULL; NEW.expires_v := NULL; NEW.models_v := NULL; NEW.rpm_v := NULL;
        NEW.user_v := NULL; NEW.rpd_v := NULL; NEW.tpd_v := NULL; NEW.addresses_v := NULL;
        NEW.created_at := coalesce(NEW.created_at, now());
        NEW.request_count := coalesce(NEW.request_count, 0);
        NEW.state_xid := pg_current_xact_id();
        NEW.stats_xid := pg_current_xact_id();
        RETURN NEW;
    END IF;

    NEW.added_v := OLD.added_v; NEW.name_v := OLD.name_v; NEW.expires_v := OLD.expires_v;
    NEW.models_v := OLD.models_v; NEW.rpm_v := OLD.rpm_v; NEW.user_v := OLD.user_v; NEW.rpd_v := OLD.rpd_v;
    NEW.tpd_v := OLD.tpd_v; NEW.addresses_v := OLD.addresses_v; NEW.state_xid := OLD.state_xid; NEW.stats_xid := OLD.stats_xid;
    IF NEW IS NOT DISTINCT FROM OLD THEN RETURN NEW; END IF;
    IF NEW.name IS DISTINCT FROM OLD.name THEN
        NEW.name_v := public.keytide_next(coalesce(OLD.name_v, OLD.added_v));
        NEW.state_xid := pg_current_xact_id();
    END IF;
    IF NEW.expires_at IS DISTINCT FROM OLD.expires_at THEN
        NEW.expires_v := public.keytide_next(coalesce(OLD.expires_v, OLD.added_v));
        NEW.state_xid := pg_current_xact_id();
    END IF;
    IF NEW.allowed_models IS DISTINCT FROM OLD.allowed_models THEN
        NEW.models_v := public.keytide_next(coalesce(OLD.models_v, OLD.added_v));
        NEW.state_xid := pg_current_xact_id();
    END IF;
    IF NEW.requests_per_minute IS DISTINCT FROM OLD.requests_per_minute THEN
        NEW.rpm_v := public.keytide_next(coalesce(OLD.rpm_v, OLD.added_v));
        NEW.state_xid := pg_current_xact_id();
    END IF;
    IF NEW.user_id IS DISTINCT FROM OLD.user_id THEN
        NEW.user_v := public.keytide_next(coalesce(OLD.user_v, OLD.added_v));
        NEW.state_xid := pg_current_xact_id();
    END IF;
    IF NEW.requests_per_day IS DISTINCT FROM OLD.requests_per_day THEN
        NEW.rpd_v := public.keytide_next(coalesce(OLD.rpd_v, OLD.added_v));
        NEW.state_xid := pg_current_xact_id();
    END IF;
    IF NEW.tokens_per_day IS DISTINCT FROM OLD.tokens_per_day THEN
        NEW.tpd_v := public.keytide_next(coalesce(OLD.tpd_v, OLD.added_v));
        NEW.state_xid := pg_current_xact_id();
    END IF;
    IF NEW.allowed_addresses IS DISTINCT FROM OLD.allowed_addresses THEN
        NEW.addresses_v := public.keytide_next(coalesce(OLD.addresses_v, OLD.added_v));
        NEW.state_xid := pg_current_xact_id();
    END IF;
    IF (NEW.request_count, NEW.success_count, NEW.failure_count, NEW.prompt_tokens, NEW.completion_tokens, NEW.last_used)
        IS DISTINCT FROM
       (OLD.request_count, OLD.success_count, OLD.failure_count, OLD.prompt_tokens, OLD.completion_tokens, OLD.last_used) THEN
        IF NEW.request_count < OLD.request_count AND NEW.request_count <> 0 THEN
            PERFORM public.keytide_report('counter_lowered', TG_TABLE_NAME);
        END IF;
        IF NEW.request_count = 0 AND NEW.success_count IS NOT DISTINCT FROM OLD.success_count
            AND NEW.failure_count IS NOT DISTINCT FROM OLD.failure_count THEN
            -- Whoever knows only this one column has reset the token.
            NEW.success_count := 0; NEW.failure_count := 0;
        END IF;
        NEW.request_count := public.keytide_counter(OLD.request_count, NEW.request_count);
        NEW.success_count := public.keytide_counter(OLD.success_count, NEW.success_count);
        NEW.failure_count := public.keytide_counter(OLD.failure_count, NEW.failure_count);
        NEW.prompt_tokens := public.keytide_counter(OLD.prompt_tokens, NEW.prompt_tokens);
        NEW.completion_tokens := public.keytide_counter(OLD.completion_tokens, NEW.completion_tokens);
        NEW.last_used := greatest(OLD.last_used, NEW.last_used);
        NEW.stats_xid := pg_current_xact_id();
    END IF;
    RETURN NEW;
END $$;

-- Gives an added token its counts back, and takes its tombstone away.
CREATE OR REPLACE FUNCTION public.keytide_restore_token(of_stream text, secret text) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    was public.keytide_retired;
    writer text := coalesce(current_setting('keytide.writer', true), '');
BEGIN
    DELETE FROM public.keytide_tombstones
    WHERE stream = of_stream AND kind = 'token' AND id = public.keytide_digest(secret);
    was := public.keytide_unretire(of_stream, 'token', public.keytide_digest(secret));
    IF was.id IS NULL THEN RETURN; END IF;
    PERFORM set_config('keytide.writer', 'on', true);
    EXECUTE format($q$
        UPDATE public.%I SET request_count = public.keytide_plus(request_count, $2),
            success_count = public.keytide_plus(success_count, $3), failure_count = public.keytide_plus(failure_count, $4),
            prompt_tokens = public.keytide_plus(prompt_tokens, $5),
            completion_tokens = public.keytide_plus(completion_tokens, $6), last_used = greatest(last_used, $7),
            stats_xid = pg_current_xact_id()
        WHERE token = $1$q$, of_stream || '_client_tokens')
    USING secret, was.total_requests, was.success_count, was.failure_count, was.prompt_tokens, was.completion_tokens,
          was.last_used;
    PERFORM set_config('keytide.writer', writer, true);
END $$;

CREATE OR REPLACE FUNCTION public.keytide_tokens_added() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    PERFORM public.keytide_restore_token(TG_ARGV[0], NEW.token);
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION public.keytide_tokens_delete() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    was record;
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM public.keytide_retire(TG_ARGV[0], 'token', public.keytide_digest(OLD.token), OLD.request_count,
            OLD.success_count, OLD.failure_count, OLD.prompt_tokens, OLD.completion_tokens, OLD.last_used, NULL, NULL);
        PERFORM public.keytide_bury(TG_ARGV[0], 'token', public.keytide_digest(OLD.token), public.keytide_next(OLD.added_v));
        RETURN OLD;
    END IF;
    FOR was IN EXECUTE format('SELECT * FROM public.%I', TG_TABLE_NAME) LOOP
        PERFORM public.keytide_retire(TG_ARGV[0], 'token', public.keytide_digest(was.token), was.request_count,
            was.success_count, was.failure_count, was.prompt_tokens, was.completion_tokens, was.last_used, NULL, NULL);
        PERFORM public.keytide_bury(TG_ARGV[0], 'token', public.keytide_digest(was.token), public.keytide_next(was.added_v));
    END LOOP;
    RETURN NULL;
END $$;
