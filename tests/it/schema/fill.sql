-- Fills a hub as instances do, through keytide_push, with batches that the database makes itself: a test of many rows spends its
-- time in what it tests. Time is told to the hub; ids and keys follow from numbers.
CREATE SCHEMA fill;

CREATE FUNCTION fill.id(what text, n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$ SELECT md5(what || n)::uuid $$;
CREATE FUNCTION fill.key(n bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT 'sk-or-v1-' || encode(sha256(n::text::bytea), 'hex')
$$;

CREATE FUNCTION fill.at(day bigint, ms bigint) RETURNS bigint LANGUAGE sql AS $$
    SELECT day * 86400000 + ms FROM set_config('keytide.now', keytide_at(day * 86400000 + ms)::text, false)
$$;

-- The next batch of the one instance there is. Whatever is answered but `expired` rows is an error.
CREATE FUNCTION fill.push(of_stream text, rows jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    me uuid := fill.id('instance', 1);
    held record;
    answer jsonb;
BEGIN
    SELECT last_seq, digest INTO held FROM public.keytide_streams WHERE instance = me AND stream = of_stream;
    answer := public.keytide_push(jsonb_build_object(
        'protocol', 1, 'instance', me, 'now', 0, 'stream', of_stream, 'provider', CASE of_stream WHEN 'core' THEN 'core' ELSE 'ollama' END,
        'seq', coalesce(held.last_seq, 0) + 1, 'prev', coalesce(held.digest, ''), 'digest', 'd' || (coalesce(held.last_seq, 0) + 1), 'rows', rows));
    IF (answer ->> 'status') <> 'applied' OR (answer -> 'rows') - 'expired'::text <> '{}' THEN
        RAISE EXCEPTION '%', left(answer::text, 2000);
    END IF;
    RETURN coalesce(answer -> 'rows' -> 'expired', '[]');
END $$;

-- Keys of a provider, with statistics.
CREATE FUNCTION fill.keys(low int, high int) RETURNS jsonb LANGUAGE sql AS $$
    SELECT fill.push('ollama_api', jsonb_build_object(
        'keys', jsonb_agg(jsonb_build_object('k', fill.key(n), 'add', true, 'a', keytide_version(), 'u', 'account' || n || '@example.org',
                                             'c', keytide_ms(now()))),
        'key_stats', jsonb_agg(jsonb_build_object('k', fill.key(n), 's', 1))))
    FROM generate_series(low, high) n
$$;

CREATE FUNCTION fill.key_stats(low int, high int, at bigint) RETURNS jsonb LANGUAGE sql AS $$
    SELECT fill.push('ollama_api', jsonb_build_object(
        'key_stats', jsonb_agg(jsonb_build_object('k', fill.key(n), 's', 30, 'f', 1, 'lu', at, 'ls', at, 'lf', at))))
    FROM generate_series(low, high) n
$$;

-- Models of a provider: their totals, and an hour of some of them.
CREATE FUNCTION fill.models(many int, of_hour bigint) RETURNS jsonb LANGUAGE sql AS $$
    SELECT fill.push('ollama_api', jsonb_build_object(
        CASE WHEN of_hour IS NULL THEN 'models' ELSE 'hours' END,
        jsonb_agg(jsonb_strip_nulls(jsonb_build_object('m', 'vendor/model-name-' || n, 'h', of_hour, 's', 100, 'f', 3, 'p', 40000, 'q', 9000))),
        'global', '{"s": 5000, "f": 150, "p": 2000000, "q": 450000}'::jsonb))
    FROM generate_series(1, many) n
$$;

-- People, each of whom shares a key.
CREATE FUNCTION fill.users(people int, shared int) RETURNS jsonb LANGUAGE sql AS $$
    SELECT fill.push('core', jsonb_build_object(
        'users', (SELECT jsonb_agg(jsonb_build_object('i', fill.id('user', u), 'a', keytide_version(), 'add', true, 'n', 'user' || u || '@example.org',
                                                      'd', 1000, 't', 1000000, 'rv', keytide_version() + 1)) FROM generate_series(1, people) u),
        'shares', (SELECT jsonb_agg(jsonb_build_object('i', fill.id('key', k), 'p', 'ollama', 'u', fill.id('user', k), 'v', keytide_version()))
                   FROM generate_series(1, shared) k)))
$$;

-- Who uses a key in an hour: `each` of the twelve that use it on that day.
CREATE FUNCTION fill.members(k bigint, hour bigint, each int) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_agg(replace(fill.id('user', (k * 7 + (hour + m) % 12) % 1000 + 1)::text, '-', '')) FROM generate_series(1, each) m
$$;

-- Uses of these keys in an hour: ten attempts of each, one of them failed.
CREATE FUNCTION fill.uses(day bigint, of_hour int, keys int[], each int) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    n bigint := day * 24 + of_hour;
    at bigint := fill.at(day, of_hour * 3600000 + 1800000);
BEGIN
    RETURN fill.push('core', jsonb_build_object(
        'tallies', (SELECT jsonb_agg(jsonb_build_object('t', t, 'i', fill.id('key', k), 'n', CASE t WHEN 'kh' THEN n WHEN 'kd' THEN day ELSE 0 END,
                                                        's', 9, 'f', 1, 'p', CASE t WHEN 'kh' THEN 12345 ELSE 0 END, 'q', 9, 'lu', at))
                    FROM unnest(keys) k, unnest('{kd,kh,kt}'::text[]) t),
        'sets', (SELECT jsonb_agg(jsonb_build_object('t', t, 'i', fill.id('key', k), 'n', CASE t WHEN 'kh' THEN n ELSE day END,
                                                     'm', fill.members(k, of_hour, each)))
                 FROM unnest(keys) k, unnest('{kd,kh}'::text[]) t)));
END $$;

-- Days of people: fifteen calls of each, with some of a hundred keys.
CREATE FUNCTION fill.days(day bigint, of_hour int, low int, high int, used int) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    at bigint := fill.at(day, of_hour * 3600000 + 1800000);
BEGIN
    RETURN fill.push('core', jsonb_build_object(
        'tallies', (SELECT jsonb_agg(jsonb_build_object('t', t, 'i', fill.id(CASE t WHEN 'td' THEN 'token' ELSE 'user' END, u), 'n', day,
                                                        's', 12, 'f', 3, 'p', 41234, 'q', 9123, 'lu', at))
                    FROM generate_series(low, high) u, unnest('{uu,uc,ue,td}'::text[]) t),
        'sets', (SELECT jsonb_agg(jsonb_build_object('t', 'uk', 'i', fill.id('user', u), 'n', day, 'at', at,
                                                     'k', left(fill.id('key', u % 100 + 1)::text, 8),
                                                     'm', (SELECT jsonb_agg(left(fill.id('key', (u + m) % 100 + 1)::text, 8)) FROM generate_series(0, used - 1) m)))
                 FROM generate_series(low, high) u)));
END $$;

-- Rows per request.
CREATE FUNCTION fill.logs(day bigint, many int) RETURNS jsonb LANGUAGE sql AS $$
    SELECT fill.push('core', jsonb_build_object('logs', jsonb_agg(jsonb_build_object(
        'x', fill.id('log', day * 100000 + n), 'i', fill.id('key', n % 100), 'u', fill.id('user', n % 50), 'y', 1 + n % 2, 'c', 200, 'at', at))))
    FROM fill.at(day, 43200000) at, generate_series(1, many) n
$$;

-- All of a day, told at its end: `keys` keys in every hour, each by one of its twelve users; the days of `people`; their events and
-- requests; the provider's counts.
CREATE FUNCTION fill.whole_day(day bigint, keys int, people int) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    at bigint := fill.at(day, 84600000);
BEGIN
    PERFORM fill.push('ollama_api', jsonb_build_object(
        'key_stats', (SELECT jsonb_agg(jsonb_build_object('k', fill.key(k), 's', 216, 'f', 24, 'lu', at)) FROM generate_series(1, keys) k),
        'hours', (SELECT jsonb_agg(jsonb_build_object('h', day * 24 + h, 'm', 'vendor/model-name-' || m, 's', 10, 'p', 4000, 'q', 900))
                  FROM generate_series(0, 23) h, generate_series(1, 10) m),
        'global', jsonb_build_object('s', keys * 216, 'f', keys * 24, 'p', 4000)));
    RETURN fill.push('core', jsonb_build_object(
        'tallies', (SELECT jsonb_agg(j) FROM (
            SELECT jsonb_build_object('t', 'kh', 'i', fill.id('key', k), 'n', day * 24 + h, 's', 9, 'f', 1, 'p', 12345, 'q', 9) AS j
            FROM generate_series(1, keys) k, generate_series(0, 23) h
            UNION ALL
            SELECT jsonb_build_object('t', t, 'i', fill.id('key', k), 'n', CASE t WHEN 'kd' THEN day ELSE 0 END, 's', 216, 'f', 24, 'lu', at)
            FROM generate_series(1, keys) k, unnest('{kd,kt}'::text[]) t
            UNION ALL
            SELECT jsonb_build_object('t', t, 'i', fill.id(CASE t WHEN 'td' THEN 'token' ELSE 'user' END, u), 'n', day, 's', 12, 'f', 3, 'p', 41234, 'lu', at)
            FROM generate_series(1, people) u, unnest('{uu,uc,td}'::text[]) t) x),
        'sets', (SELECT jsonb_agg(j) FROM (
            SELECT jsonb_build_object('t', 'kh', 'i', fill.id('key', k), 'n', day * 24 + h, 'm', fill.members(k, h, 1)) AS j
            FROM generate_series(1, keys) k, generate_series(0, 23) h
            UNION ALL
            SELECT jsonb_build_object('t', 'kd', 'i', fill.id('key', k), 'n', day, 'm', fill.members(k, 0, 12)) FROM generate_series(1, keys) k
            UNION ALL
            SELECT jsonb_build_object('t', 'uk', 'i', fill.id('user', u), 'n', day, 'at', at, 'k', left(fill.id('key', u % keys + 1)::text, 8),
                                      'm', (SELECT jsonb_agg(left(fill.id('key', (u + day + m) % keys + 1)::text, 8)) FROM generate_series(0, 9) m))
            FROM generate_series(1, people) u) x),
        'events', (SELECT jsonb_agg(jsonb_build_object('x', fill.id('event', day * 1000 + n), 'e', 'rate_limit', 'u', fill.id('user', n), 'y', 2,
                                                       'd', jsonb_build_object('limit', 'requests_per_minute', 'seen', n), 'at', at)) FROM generate_series(1, 20) n),
        'logs', (SELECT jsonb_agg(jsonb_build_object('x', fill.id('log', day * 100000 + n), 'i', fill.id('key', n % keys), 'u', fill.id('user', n % people),
                                                     'y', 1 + n % 2, 'c', 200, 'at', at)) FROM generate_series(1, 500) n)));
END $$;

-- One of the 2,880 rounds of a day: of `total` keys `many` have changed, and fifty people.
CREATE FUNCTION fill.round(day bigint, at_round int, many int, total int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    of_hour int := at_round / 120;
    n bigint := day * 24 + of_hour;
    at bigint := fill.at(day, at_round * 30000);
    keys int[];
BEGIN
    PERFORM setseed(at_round / 10000.0);
    keys := ARRAY(SELECT DISTINCT 1 + floor(random() * total)::int FROM generate_series(1, many));
    PERFORM fill.push('ollama_api', jsonb_build_object(
        'key_stats', (SELECT jsonb_agg(jsonb_build_object('k', fill.key(k), 's', 3, 'f', 1, 'lu', at, 'ls', at, 'lf', at)) FROM unnest(keys) k),
        'models', (SELECT jsonb_agg(jsonb_build_object('m', 'vendor/model-name-' || m, 's', 10, 'p', 4000, 'q', 900, 'lu', at)) FROM generate_series(1, 40) m),
        'hours', (SELECT jsonb_agg(jsonb_build_object('h', n, 'm', 'vendor/model-name-' || m, 's', 10, 'p', 4000, 'q', 900)) FROM generate_series(1, 40) m),
        'global', '{"s": 400, "p": 200000, "q": 45000}'::jsonb));
    PERFORM fill.push('core', jsonb_build_object(
        'tallies', (SELECT jsonb_agg(j) FROM (
            SELECT jsonb_build_object('t', t, 'i', fill.id('key', k), 'n', CASE t WHEN 'kh' THEN n WHEN 'kd' THEN day ELSE 0 END,
                                      's', 3, 'f', 1, 'p', CASE t WHEN 'kh' THEN 2345 ELSE 0 END, 'q', 3, 'lu', at) AS j
            FROM unnest(keys) k, unnest('{kd,kh,kt}'::text[]) t
            UNION ALL
            SELECT jsonb_build_object('t', t, 'i', fill.id(CASE t WHEN 'td' THEN 'token' ELSE 'user' END, u), 'n', day,
                                      's', 3, 'f', 1, 'p', 4123, 'q', 912, 'lu', at)
            FROM (SELECT DISTINCT 1 + floor(random() * 1000)::int AS u FROM generate_series(1, 50)) u, unnest('{uu,uc,td}'::text[]) t) x),
        'sets', (SELECT jsonb_agg(jsonb_build_object('t', t, 'i', fill.id('key', k), 'n', CASE t WHEN 'kh' THEN n ELSE day END,
                                                     'm', fill.members(k, of_hour, 1 + at_round % 2)))
                 FROM unnest(keys) k, unnest('{kd,kh}'::text[]) t)));
END $$;

-- What each table takes, and what its rows would take if it were written anew without any free space, with its indexes.
CREATE FUNCTION fill.live() RETURNS TABLE (name text, now bigint, anew bigint) LANGUAGE plpgsql AS $$
DECLARE
    one record;
BEGIN
    FOR one IN SELECT c.oid::regclass AS rel FROM pg_class c
               WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND pg_total_relation_size(c.oid) > 200000 ORDER BY 1 LOOP
        name := one.rel::text;
        now := pg_total_relation_size(one.rel);
        EXECUTE format('CREATE TABLE fill.anew (LIKE %s INCLUDING ALL)', one.rel);
        ALTER TABLE fill.anew SET (fillfactor = 100);
        EXECUTE format('INSERT INTO fill.anew SELECT * FROM %s', one.rel);
        REINDEX TABLE fill.anew;
        anew := pg_total_relation_size('fill.anew');
        DROP TABLE fill.anew;
        RETURN NEXT;
    END LOOP;
END $$;

-- Tables by name, their parts together.
CREATE FUNCTION fill.sizes() RETURNS TABLE (name text, rows bigint, heap bigint, rest bigint) LANGUAGE plpgsql AS $$
DECLARE
    one record;
BEGIN
    FOR one IN SELECT regexp_replace(c.relname, '_20\d\d_\d\d(_\d\d)?$', '') AS whole, c.oid::regclass AS rel FROM pg_class c
               WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' ORDER BY 1 LOOP
        name := one.whole;
        heap := pg_relation_size(one.rel);
        rest := pg_total_relation_size(one.rel) - heap;
        EXECUTE format('SELECT count(*) FROM %s', one.rel) INTO rows;
        RETURN NEXT;
    END LOOP;
END $$;
