-- Who may do what. Supabase publishes this schema over REST, and its default privileges give every new table and
-- function to the roles that it serves to anybody: here all of that is taken back.

SET client_min_messages = warning;

DO $$
DECLARE
    one record;
    who text;
    outsiders text[] := ARRAY(SELECT quote_ident(rolname) FROM pg_catalog.pg_roles WHERE rolname IN ('anon', 'authenticated'));
    served constant text[] := '{keytide_hello,keytide_push,keytide_pull,keytide_sizes,keytide_retain}';
BEGIN
    FOR one IN SELECT c.oid::regclass AS rel FROM pg_catalog.pg_class c
               WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname LIKE 'keytide\_%' LOOP
        PERFORM public.keytide_close(one.rel);
    END LOOP;
    FOR one IN SELECT p.oid::regprocedure AS function, p.proname FROM pg_catalog.pg_proc p
               WHERE p.pronamespace = 'public'::regnamespace AND p.proname LIKE 'keytide\_%' LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', one.function);
        FOREACH who IN ARRAY outsiders LOOP
            EXECUTE format('REVOKE ALL ON FUNCTION %s FROM %s', one.function, who);
        END LOOP;
        IF EXISTS (SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = 'service_role') THEN
            IF one.proname = ANY (served) THEN
                EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO service_role', one.function);
            ELSE
                EXECUTE format('REVOKE ALL ON FUNCTION %s FROM service_role', one.function);
            END IF;
        END IF;
    END LOOP;
END $$;
