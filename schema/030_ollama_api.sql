-- The tables of provider ollama: the guide's six, with what replication adds to them. Needs 010_core.sql and
-- 020_functions.sql. Over tables that exist already it adds only what is missing; no row is read or rewritten.
-- Made for another prefix and provider: keytide schema print --provider NAME.

SET client_min_messages = warning;

CREATE TABLE IF NOT EXISTS public.ollama_api_keys (
    api_key text PRIMARY KEY,
    username text,
    status text DEFAULT 'active',
    created_at timestamptz DEFAULT now(),
    expires_at timestamptz,
    failed_until timestamptz,
    disabled_until timestamptz,
    consecutive_failures integer DEFAULT 0
);
CREATE TABLE IF NOT EXISTS public.ollama_api_key_stats (
    api_key text PRIMARY KEY REFERENCES public.ollama_api_keys (api_key) ON DELETE CASCADE,
    total_requests bigint DEFAULT 0,
    success_count bigint DEFAULT 0,
    failure_count bigint DEFAULT 0,
    success_rate numeric DEFAULT 0,
    last_used timestamptz,
    last_success timestamptz,
    last_failure timestamptz,
    consecutive_failures integer DEFAULT 0
) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS public.ollama_api_client_tokens (
    token text PRIMARY KEY,
    name text,
    created_at timestamptz DEFAULT now(),
    expires_at timestamptz,
    request_count bigint DEFAULT 0
) WITH (fillfactor = 70);
CREATE TABLE IF NOT EXISTS public.ollama_api_global_stats (
    id text PRIMARY KEY DEFAULT 'global',
    total_requests bigint DEFAULT 0,
    success_count bigint DEFAULT 0,
    failure_count bigint DEFAULT 0,
    updated_at timestamptz DEFAULT now()
) WITH (fillfactor = 70);
CREATE TABLE IF NOT EXISTS public.ollama_api_model_stats (
    id serial PRIMARY KEY,
    provider text NOT NULL DEFAULT 'ollama',
    model text NOT NULL,
    total_requests bigint DEFAULT 0,
    success_count bigint DEFAULT 0,
    failure_count bigint DEFAULT 0,
    last_used timestamptz
) WITH (fillfactor = 70);
CREATE TABLE IF NOT EXISTS public.ollama_api_model_hourly (
    id serial PRIMARY KEY,
    provider text NOT NULL DEFAULT 'ollama',
    model text NOT NULL,
    hour timestamptz NOT NULL,
    requests bigint DEFAULT 0,
    success bigint DEFAULT 0,
    failure bigint DEFAULT 0
) WITH (fillfactor = 80);

ALTER TABLE public.ollama_api_keys
    ADD COLUMN IF NOT EXISTS note text,
    ADD COLUMN IF NOT EXISTS weight integer NOT NULL DEFAULT 1,
    ADD COLUMN IF NOT EXISTS enabled boolean,
    ADD COLUMN IF NOT EXISTS needs_verification boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS fail_cause text,
    ADD COLUMN IF NOT EXISTS auth_failures integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS server_failures integer NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS health_epoch bigint,
    ADD COLUMN IF NOT EXISTS added_v bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS username_v bigint,
    ADD COLUMN IF NOT EXISTS note_v bigint,
    ADD COLUMN IF NOT EXISTS expires_v bigint,
    ADD COLUMN IF NOT EXISTS weight_v bigint,
    ADD COLUMN IF NOT EXISTS enabled_v bigint,
    ADD COLUMN IF NOT EXISTS disabled_v bigint,
    ADD COLUMN IF NOT EXISTS owner uuid,
    ADD COLUMN IF NOT EXISTS owner_v bigint,
    ADD COLUMN IF NOT EXISTS state_xid xid8 NOT NULL DEFAULT '0';
ALTER TABLE public.ollama_api_key_stats ADD COLUMN IF NOT EXISTS stats_xid xid8 NOT NULL DEFAULT '0';
ALTER TABLE public.ollama_api_client_tokens
    ADD COLUMN IF NOT EXISTS allowed_models jsonb,
    ADD COLUMN IF NOT EXISTS requests_per_minute integer,
    ADD COLUMN IF NOT EXISTS user_id uuid,
    ADD COLUMN IF NOT EXISTS requests_per_day bigint,
    ADD COLUMN IF NOT EXISTS tokens_per_day bigint,
    ADD COLUMN IF NOT EXISTS allowed_addresses jsonb,
    ADD COLUMN IF NOT EXISTS success_count bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS failure_count bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS prompt_tokens bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS completion_tokens bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS last_used timestamptz,
    ADD COLUMN IF NOT EXISTS added_v bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS name_v bigint,
    ADD COLUMN IF NOT EXISTS expires_v bigint,
    ADD COLUMN IF NOT EXISTS models_v bigint,
    ADD COLUMN IF NOT EXISTS rpm_v bigint,
    ADD COLUMN IF NOT EXISTS user_v bigint,
    ADD COLUMN IF NOT EXISTS rpd_v bigint,
    ADD COLUMN IF NOT EXISTS tpd_v bigint,
    ADD COLUMN IF NOT EXISTS addresses_v bigint,
    ADD COLUMN IF NOT EXISTS state_xid xid8 NOT NULL DEFAULT '0',
    ADD COLUMN IF NOT EXISTS stats_xid xid8 NOT NULL DEFAULT '0';
ALTER TABLE public.ollama_api_global_stats
    ADD COLUMN IF NOT EXISTS prompt_tokens bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS completion_tokens bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS last_used timestamptz,
    ADD COLUMN IF NOT EXISTS stats_xid xid8 NOT NULL DEFAULT '0';
ALTER TABLE public.ollama_api_model_stats
    ADD COLUMN IF NOT EXISTS prompt_tokens bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS completion_tokens bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS stats_xid xid8 NOT NULL DEFAULT '0';
ALTER TABLE public.ollama_api_model_hourly
    ADD COLUMN IF NOT EXISTS created_at timestamptz DEFAULT now(),
    ADD COLUMN IF NOT EXISTS prompt_tokens bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS completion_tokens bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS stats_xid xid8 NOT NULL DEFAULT '0';

CREATE INDEX IF NOT EXISTS ollama_api_keys_state ON public.ollama_api_keys (state_xid);
CREATE INDEX IF NOT EXISTS ollama_api_client_tokens_state ON public.ollama_api_client_tokens (state_xid);

INSERT INTO public.keytide_providers (stream, provider) VALUES ('ollama_api', 'ollama')
ON CONFLICT (stream) DO UPDATE SET provider = excluded.provider WHERE keytide_providers.provider <> excluded.provider;

-- The rest depends on what is there: unique indexes, columns that may be empty, triggers, rights.
SELECT public.keytide_install('ollama_api', 'ollama');
