-- keytide's own tables, and the small words that its functions are made of. Plain SQL for Postgres 13 and later; run it as often as you
-- like, it adds only what is missing. What each table and column is for stands in schema/README.md.

SET client_min_messages = warning;

-- Who this database is. One row.
CREATE TABLE IF NOT EXISTS public.keytide_settings (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    hub_id uuid NOT NULL DEFAULT gen_random_uuid(),
    schema_version integer NOT NULL DEFAULT 1,
    time_zone text NOT NULL DEFAULT 'UTC',
    installed_at timestamptz NOT NULL DEFAULT now(),
    -- Deletions before this version were forgotten.
    swept bigint NOT NULL DEFAULT 0,
    -- Who makes this database the hub that was known before, and until when nobody else may.
    adopter uuid,
    adopt_until timestamptz
);
INSERT INTO public.keytide_settings (one) SELECT true WHERE NOT EXISTS (SELECT 1 FROM public.keytide_settings);

ALTER TABLE public.keytide_settings
    -- How far the ladder of the storage budget has been climbed, and what it keeps since: hours (UTC) and days of users.
    ADD COLUMN IF NOT EXISTS rung smallint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS hours_from bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS days_from integer NOT NULL DEFAULT 0,
    -- Whether a row per request is kept.
    ADD COLUMN IF NOT EXISTS usage_logs boolean NOT NULL DEFAULT false;

-- Identities that this hub has been.
CREATE TABLE IF NOT EXISTS public.keytide_lineage (
    hub_id uuid NOT NULL,
    system text NOT NULL,
    timeline bigint NOT NULL,
    adopted_at timestamptz NOT NULL DEFAULT now(),
    adopted_by uuid,
    PRIMARY KEY (hub_id, system, timeline)
);

-- The table prefixes whose tables were set up here.
CREATE TABLE IF NOT EXISTS public.keytide_providers (
    stream text PRIMARY KEY,
    provider text NOT NULL
);

CREATE TABLE IF NOT EXISTS public.keytide_instances (
    id uuid PRIMARY KEY,
    name text NOT NULL DEFAULT '',
    version text NOT NULL DEFAULT '',
    first_seen timestamptz NOT NULL DEFAULT now(),
    last_seen timestamptz NOT NULL DEFAULT now(),
    -- Its clock minus ours, in milliseconds.
    clock_offset bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 70);

-- How far each instance's stream of batches has been applied, and how the last one was answered.
CREATE TABLE IF NOT EXISTS public.keytide_streams (
    instance uuid NOT NULL,
    stream text NOT NULL,
    last_seq bigint NOT NULL DEFAULT 0,
    digest text NOT NULL DEFAULT '',
    answer jsonb NOT NULL DEFAULT '{}',
    stats_xid xid8 NOT NULL DEFAULT '0',
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (instance, stream)
) WITH (fillfactor = 70);

-- What was deleted: keys and key statistics for 30 days, tokens for good, and only as hashes.
CREATE TABLE IF NOT EXISTS public.keytide_tombstones (
    stream text NOT NULL,
    kind text NOT NULL,
    id text NOT NULL,
    version bigint NOT NULL,
    deleted_at timestamptz NOT NULL DEFAULT now(),
    state_xid xid8 NOT NULL DEFAULT '0',
    PRIMARY KEY (stream, kind, id)
);
CREATE INDEX IF NOT EXISTS keytide_tombstones_state ON public.keytide_tombstones (state_xid);

-- The counts of what was deleted; adding it again gives them back.
CREATE TABLE IF NOT EXISTS public.keytide_retired (
    stream text NOT NULL,
    kind text NOT NULL,
    id text NOT NULL,
    total_requests bigint NOT NULL DEFAULT 0,
    success_count bigint NOT NULL DEFAULT 0,
    failure_count bigint NOT NULL DEFAULT 0,
    prompt_tokens bigint NOT NULL DEFAULT 0,
    completion_tokens bigint NOT NULL DEFAULT 0,
    last_used timestamptz,
    last_success timestamptz,
    last_failure timestamptz,
    PRIMARY KEY (stream, kind, id)
);

-- What was ignored, and how often: for people.
CREATE TABLE IF NOT EXISTS public.keytide_reports (
    kind text NOT NULL,
    table_name text NOT NULL,
    count bigint NOT NULL DEFAULT 0,
    last_at timestamptz,
    PRIMARY KEY (kind, table_name)
);

-- Small words. They are inlined into the queries that use them, so they carry no settings of their own.

-- Milliseconds since the epoch; what is no date is none.
CREATE OR REPLACE FUNCTION public.keytide_ms(at timestamptz) RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN at = 'infinity' THEN 253402300799000
                WHEN at = '-infinity' THEN 0
                ELSE (date_part('epoch', at) * 1000)::bigint END
$$;

CREATE OR REPLACE FUNCTION public.keytide_at(ms bigint) RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT '1970-01-01 00:00:00+00'::timestamptz + ms * '1 millisecond'::interval
$$;

-- A whole number within bounds, whatever the JSON says; NULL if it is no number.
CREATE OR REPLACE FUNCTION public.keytide_int(value jsonb, low bigint, high bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN jsonb_typeof(value) = 'number' THEN least(greatest(trunc(value::numeric), low), high)::bigint END
$$;

-- A date within bounds: 1970 to 9999.
CREATE OR REPLACE FUNCTION public.keytide_date(value jsonb) RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT public.keytide_at(public.keytide_int(value, 0, 253402300799000))
$$;

-- A text of at most that many characters; NULL if it is none.
CREATE OR REPLACE FUNCTION public.keytide_text(value jsonb, most integer) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN jsonb_typeof(value) = 'string' THEN left(value #>> '{}', most) END
$$;

-- An identifier; NULL if it is none.
CREATE OR REPLACE FUNCTION public.keytide_uuid(value jsonb) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN jsonb_typeof(value) = 'string'
                     AND value #>> '{}' ~* '^([0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$'
                THEN (value #>> '{}')::uuid END
$$;

-- A sum that stays within its type.
CREATE OR REPLACE FUNCTION public.keytide_plus(a bigint, b bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN coalesce(a, 0) > 9223372036854775807 - coalesce(b, 0) THEN 9223372036854775807
                ELSE coalesce(a, 0) + coalesce(b, 0) END
$$;

-- Percent, two decimals.
CREATE OR REPLACE FUNCTION public.keytide_rate(success bigint, total bigint) RETURNS numeric
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN total > 0 THEN least(round(success * 100.0 / total, 2), 100) ELSE 0 END
$$;

CREATE OR REPLACE FUNCTION public.keytide_digest(secret text) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT left(encode(sha256(convert_to(secret, 'UTF8')), 'hex'), 32)
$$;

-- A version of now with tag 0: microseconds << 10.
CREATE OR REPLACE FUNCTION public.keytide_version() RETURNS bigint LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint << 10
$$;

-- A version of now that is later than `last`, even if our clock is behind it.
CREATE OR REPLACE FUNCTION public.keytide_next(last bigint) RETURNS bigint LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT greatest(public.keytide_version(), ((coalesce(last, 0) >> 10) + 1) << 10)
$$;

-- Counts more of what was ignored. Whoever is counting already is not waited for: a report is worth no deadlock.
CREATE OR REPLACE FUNCTION public.keytide_report_many(what text, at_table text, many bigint) RETURNS void LANGUAGE sql VOLATILE AS $$
    UPDATE public.keytide_reports r SET count = r.count + many, last_at = now()
    FROM (SELECT kind, table_name FROM public.keytide_reports
          WHERE kind = what AND table_name = at_table AND many > 0 FOR UPDATE SKIP LOCKED) f
    WHERE r.kind = f.kind AND r.table_name = f.table_name
$$;
CREATE OR REPLACE FUNCTION public.keytide_report(what text, at_table text) RETURNS void LANGUAGE sql VOLATILE AS $$
    SELECT public.keytide_report_many(what, at_table, 1)
$$;

-- Which cause is greater where two deadlines are equal.
CREATE OR REPLACE FUNCTION public.keytide_cause(cause text) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE cause WHEN 'rate_limit' THEN 1 WHEN 'quota' THEN 2 WHEN 'auth' THEN 3 WHEN 'server' THEN 4 ELSE 0 END
$$;

-- What time it is. Tests may say so, if the database is theirs: the setting counts for its owner's own sessions only.
CREATE OR REPLACE FUNCTION public.keytide_now() RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$
DECLARE
    told text := current_setting('keytide.now', true);
BEGIN
    IF told <> '' AND pg_has_role(session_user, (
        SELECT c.relowner FROM pg_class c WHERE c.oid = 'public.keytide_settings'::regclass), 'MEMBER') THEN
        RETURN told::timestamptz;
    END IF;
    RETURN now();
END $$;

-- The time zone of a day; one that does not exist is UTC.
CREATE OR REPLACE FUNCTION public.keytide_zone() RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    zone text;
BEGIN
    SELECT s.time_zone INTO zone FROM public.keytide_settings s;
    PERFORM now() AT TIME ZONE zone;
    RETURN zone;
EXCEPTION WHEN invalid_parameter_value THEN
    RETURN 'UTC';
END $$;

CREATE OR REPLACE FUNCTION public.keytide_zone_write() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_timezone_names z WHERE z.name = NEW.time_zone) THEN
        RAISE EXCEPTION 'there is no time zone "%"', NEW.time_zone
            USING HINT = 'Write a name such as Europe/Berlin; SELECT name FROM pg_timezone_names lists them.';
    END IF;
    RETURN NEW;
END $$;
DROP TRIGGER IF EXISTS keytide_zone ON public.keytide_settings;
CREATE TRIGGER keytide_zone BEFORE UPDATE ON public.keytide_settings FOR EACH ROW
    WHEN (new.time_zone IS DISTINCT FROM old.time_zone) EXECUTE FUNCTION public.keytide_zone_write();

-- Days are numbers: since 1970-01-01, of the local date.
CREATE OR REPLACE FUNCTION public.keytide_today() RETURNS integer LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (public.keytide_now() AT TIME ZONE public.keytide_zone())::date - '1970-01-01'::date;
END $$;

CREATE OR REPLACE FUNCTION public.keytide_day(day bigint) RETURNS date LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT '1970-01-01'::date + day::integer
$$;

-- The hour that it is, since the epoch.
CREATE OR REPLACE FUNCTION public.keytide_hour() RETURNS bigint LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN floor(extract(epoch FROM public.keytide_now()) / 3600)::bigint;
END $$;
