use std::{collections::BTreeSet, io::Write};

use proptest::prelude::*;

use super::*;
use crate::{
    pool::{self, CooldownScope},
    upstream::outcome::Treat,
};

const NO_ENV: [(&str, &str); 0] = [];

fn env(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect::<Vec<_>>()
        .into_iter()
}

/// `text` as config.toml, with these variables.
fn load(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
    Config::load(Some(&path), &Overrides::default(), env(variables))
}

fn good(text: &str) -> Config {
    load(text, &NO_ENV).unwrap_or_else(|error| panic!("{text}\n{error}")).config
}

/// The problems as people read them, with the file's folder left out.
fn problems(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let error = load(text, variables).expect_err(text);
    let short = |line: String| match (line.find('/'), line.find("config.toml")) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &line[..from], &line[to..]),
        _ => line,
    };
    error.problems.iter().map(|problem| short(problem.to_string())).collect()
}

fn one_problem(text: &str) -> String {
    let all = problems(text, &NO_ENV);
    assert_eq!(all.len(), 1, "{text}: {all:#?}");
    all.into_iter().next().unwrap()
}

#[test]
fn the_shipped_providers() {
    let config = Config::default();
    let [ollama, openrouter] = [&config.providers["ollama"], &config.providers["openrouter"]];
    assert_eq!(config.server.default_provider, "ollama");
    assert_eq!(config.server.gateway, gateway::Options::default());
    let budget = config.budget.local;
    assert_eq!(config.store, store::Options { budget, ..store::Options::default() });
    assert_eq!(config.sync, SyncOptions::default());
    assert_eq!(config.log, LogOptions::default());
    assert!(config.server.public_stats && config.server.admin_token.is_none());

    assert_eq!(ollama.upstream.base(), "https://ollama.com");
    assert_eq!((ollama.table_prefix.as_str(), ollama.key_pattern.as_ref()), ("ollama_api", None));
    assert_eq!(ollama.pool, pool::Options::default());
    assert!(ollama.gateway.ollama_native && ollama.enabled() && ollama.gateway.cache.is_none());
    assert_eq!(ollama.upstream.rules, Default::default());

    assert_eq!(openrouter.upstream.base(), "https://openrouter.ai/api");
    assert_eq!(openrouter.pool.cooldown_scope, CooldownScope::Account);
    assert_eq!(openrouter.upstream.rules.lookup(403).treat_as, Treat::Request);
    assert_eq!(openrouter.upstream.rules.lookup(401).treat_as, Treat::Auth);
    assert_eq!(openrouter.upstream.probe.path, "/v1/key");
    assert!(!openrouter.gateway.ollama_native);
    let pattern = openrouter.key_pattern.as_ref().unwrap();
    assert!(pattern.matches("sk-or-v1-abc") && !pattern.matches("sk-abc"));
}

/// Takes the `#` off every commented setting.
fn uncommented(text: &str) -> String {
    let lines = text.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') => rest,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_reference_file_is_the_defaults() {
    let text = include_str!("../../config.toml");
    assert_eq!(good(text), Config::default());
    let loaded = load(&uncommented(text), &NO_ENV).unwrap();
    assert_eq!(loaded.config, Config::default());
    let from_file: BTreeSet<&str> = loaded
        .sources
        .iter()
        .filter(|(_, source)| *source != "default")
        .map(|(name, _)| name.as_str())
        .collect();
    for name in loaded.sources.keys().filter(|name| !name.starts_with("providers.openrouter.")) {
        assert!(from_file.contains(name.as_str()), "config.toml does not show {name}");
    }
}

#[test]
fn layers_stand_over_each_other() {
    let text =
        "[server]\nlisten = \"127.0.0.1:1\"\nworkers = 2\npublic_stats = false\n[store]\ndir = \"file\"";
    let variables =
        [("KEYTIDE_SERVER__WORKERS", "3"), ("KEYTIDE_SERVER__LISTEN", "127.0.0.1:2"), ("OTHER", "x")];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    let overrides =
        Overrides { listen: Some("127.0.0.1:3".parse().unwrap()), data_dir: Some(PathBuf::from("flag")) };
    let loaded = Config::load(Some(&path), &overrides, env(&variables)).unwrap();
    let gateway = &loaded.config.server.gateway;
    assert_eq!((gateway.listen.port(), gateway.workers), (3, 3));
    assert_eq!(loaded.config.store.dir, PathBuf::from("flag"));
    assert!(!loaded.config.server.public_stats);
    assert_eq!(loaded.file.as_deref(), Some(path.as_path()));
    let file = path.display();
    for (name, source) in [
        ("server.listen", "--listen".to_owned()),
        ("store.dir", "--data-dir".to_owned()),
        ("server.workers", "environment variable KEYTIDE_SERVER__WORKERS".to_owned()),
        ("server.public_stats", format!("{file}:4")),
        ("server.max_body", "default".to_owned()),
    ] {
        assert_eq!(loaded.sources[name], source);
    }
}

#[test]
fn a_named_file_must_exist_and_an_unnamed_need_not() {
    let missing = Path::new("/nowhere/config.toml");
    let error = Config::load(Some(missing), &Overrides::default(), env(&NO_ENV)).unwrap_err();
    assert!(error.to_string().contains("/nowhere/config.toml does not exist"), "{error}");
    let loaded = Config::load_first(&[missing], false, &Overrides::default(), env(&NO_ENV)).unwrap();
    assert_eq!((loaded.config, loaded.file), (Config::default(), None));

    let dir = tempfile::tempdir().unwrap();
    let error = Config::load_first(&[dir.path()], false, &Overrides::default(), env(&NO_ENV)).unwrap_err();
    assert!(error.to_string().contains("cannot be read"), "{error}");
    let path = dir.path().join("latin1.toml");
    std::fs::write(&path, b"# \xe9").unwrap();
    let error = Config::load(Some(&path), &Overrides::default(), env(&NO_ENV)).unwrap_err();
    assert!(error.to_string().contains("is not UTF-8"), "{error}");
}

#[test]
fn established_variables() {
    let secret = "a-service-role-key";
    let loaded = load(
        "",
        &[
            ("DATABASE_URL", "postgres://u:hunter2@h:6543/postgres"),
            ("SUPABASE_REST_URL", "https://ref.supabase.co/rest/v1/"),
            ("SUPABASE_SERVICE_ROLE_KEY", secret),
            ("ADMIN_TOKEN", "0123456789abcdef"),
            ("REDIS_URL", "rediss://default:x@h:6379"),
            ("KEYTIDE_URL", "http://elsewhere"),
            ("KEYTIDE_LOG__FORMAT", ""),
        ],
    )
    .unwrap();
    let sync = &loaded.config.sync;
    assert_eq!(sync.route.rest_url.as_deref(), Some("https://ref.supabase.co/rest/v1"));
    assert_eq!(sync.route.service_key.as_ref().map(Secret::expose), Some(secret));
    assert!(sync.route.database_url.is_some());
    assert_eq!(loaded.config.server.admin_token.as_ref().map(Secret::expose), Some("0123456789abcdef"));
    assert_eq!(loaded.sources["sync.database_url"], "environment variable DATABASE_URL");
    assert_eq!(loaded.notices, ["REDIS_URL is not needed: the local store takes its place"]);
    let shown = format!("{:?} {:?}", describe(&loaded), loaded.config);
    for hidden in ["hunter2", secret, "0123456789abcdef"] {
        assert!(!shown.contains(hidden), "{shown}");
    }
    let off = load("sync.transport = \"off\"", &[("DATABASE_URL", "postgres://h")]).unwrap();
    assert_eq!((loaded.config.hubs().len(), off.config.hubs().len()), (1, 0));

    let long =
        [("ADMIN_TOKEN", "the-short-name-loses"), ("KEYTIDE_SERVER__ADMIN_TOKEN", "the-long-name-wins")];
    let token = load("", &long).unwrap().config.server.admin_token.unwrap();
    assert_eq!(token.expose(), "the-long-name-wins");
}

#[test]
fn variables_reach_every_kind_of_setting() {
    let loaded = load(
        "[providers.my-llm]\nbase_url = \"http://h\"\n[providers.openrouter.headers]\nX-Title = \"file\"",
        &[
            ("KEYTIDE_SERVER__CORS_ORIGINS", "https://a.com, https://b.com"),
            ("KEYTIDE_SERVER__PUBLIC_MODELS", "yes"),
            ("KEYTIDE_PROVIDERS__MY_LLM__ALIASES", "fast=gpt-oss:20b, big=gpt-oss:120b"),
            ("KEYTIDE_PROVIDERS__MY_LLM__STATUS__429__COOLDOWN", "5m"),
            ("KEYTIDE_PROVIDERS__MY_LLM__POLICY__AUTH_STEPS", "1m,2m,3m,4m"),
            ("KEYTIDE_PROVIDERS__OPENROUTER__HEADERS__X_TITLE", "variable"),
            ("KEYTIDE_PROVIDERS__OPENROUTER__HEADERS__HTTP_REFERER", "https://me"),
            ("KEYTIDE_PROVIDERS__NEW__BASE_URL", "https://new"),
        ],
    )
    .unwrap_or_else(|error| panic!("{error}"));
    let config = &loaded.config;
    assert_eq!(config.server.gateway.cors_origins, ["https://a.com", "https://b.com"]);
    assert!(config.server.gateway.public_models);
    let provider = &config.providers["my-llm"];
    assert_eq!(provider.gateway.aliases["fast"], "gpt-oss:20b");
    assert_eq!(provider.gateway.aliases.len(), 2);
    assert_eq!(provider.upstream.rules.lookup(429).cooldown, Some(Duration::from_secs(300)));
    assert_eq!(provider.pool.policy.auth_steps[3], Duration::from_secs(240));
    assert_eq!(provider.table_prefix, "my_llm_api");
    let headers: Vec<_> = config.providers["openrouter"].upstream.headers.clone();
    let text: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(text, [("http-referer", "https://me"), ("x-title", "variable")]);
    assert!(config.providers.contains_key("new"));
}

#[test]
fn all_problems_are_listed_at_once_with_their_places() {
    let text = "\
[server]
listen = \"nowhere\"
workers = 999
lissten = 1
[store]
flush_interval = \"1ms\"
durability = \"maybe\"
[providers.ollama]
max_attempts = 0
";
    let found = problems(text, &[("KEYTIDE_STORE__DIRR", "x"), ("ADMIN_TOKEN", "tooshort")]);
    assert_eq!(
        found,
        [
            "providers.ollama.max_attempts (config.toml:9) must be a whole number from 1 to 10, not 0",
            "server.listen (config.toml:2) must be an address and port, like \"127.0.0.1:8787\", \
             \"0.0.0.0:8787\" or \"[::]:8787\"",
            "server.workers (config.toml:3) must be a whole number from 0 to 256, not 999",
            "server.admin_token (environment variable ADMIN_TOKEN) must be at least 16 characters long",
            "store.flush_interval (config.toml:6) must be a duration from 10ms to 10s, written like \"500ms\", \
             \"30s\" or \"6h\", not \"1ms\"",
            "store.durability (config.toml:7) must be one of \"relaxed\", \"strict\", not \"maybe\"",
            "server.lissten (config.toml:4) is not a known setting; did you mean server.listen?",
            "store.dirr (environment variable KEYTIDE_STORE__DIRR) is not a known setting; did you mean \
             KEYTIDE_STORE__DIR?",
        ]
    );
    let shown = load(text, &NO_ENV).unwrap_err().to_string();
    assert!(shown.starts_with("the configuration cannot be used:\n  providers."), "{shown}");
}

#[test]
fn unknown_keys_name_the_nearest() {
    for (text, near) in [
        ("[serverr]\nlisten = \"x\"", "did you mean server?"),
        ("listen = \"127.0.0.1:1\"", "did you mean server.listen?"),
        ("[providers.ollama]\nbase-url = \"http://h\"", "did you mean providers.ollama.base_url?"),
        ("[providers.ollama.policy]\nauth_step = []", "did you mean providers.ollama.policy.auth_steps?"),
        ("[providers.ollama.status.429]\nx = \"1s\"", "known here are cooldown, treat_as"),
        ("[providers.ollama]\nttl = \"5m\"", "did you mean providers.ollama.cache.ttl?"),
        ("[budget]\nlocall = \"1GB\"", "did you mean budget.local?"),
        ("[budget]\nx = \"1GB\"", "known here are egress, hub, local"),
        ("[limits]\ntimezone = 1", "did you mean limits.time_zone?"),
        (
            "[xyz]",
            "known here are budget, hubs, limits, log, monitor, providers, server, store, sync, usage_log",
        ),
        ("[monitor]\nwarmup_days = 1", "did you mean monitor.warm_up_days?"),
        ("[monitor.abuse]\nblok = 1", "did you mean monitor.abuse.block?"),
        ("[monitor.storage]\nblock = 1", "is not a known setting"),
        ("\"a b\".c = 1", "\"a b\" (config.toml:1) is not a known setting"),
    ] {
        let problem = one_problem(text);
        assert!(problem.contains(near), "{problem}");
    }
    for (variable, near) in [
        ("KEYTIDE_LISTEN", "did you mean KEYTIDE_SERVER__LISTEN?"),
        ("KEYTIDE_SERVER_LISTEN", "did you mean KEYTIDE_SERVER__LISTEN?"),
        ("KEYTIDE_PROVIDERS__OLLAMA__BASEURL", "did you mean KEYTIDE_PROVIDERS__OLLAMA__BASE_URL?"),
        ("KEYTIDE_BUDGET__ROOM__X", "KEYTIDE_BUDGET__ROOM__X) is not a known setting"),
        ("KEYTIDE_", "is not a known setting"),
    ] {
        let all = problems("", &[(variable, "x")]);
        assert!(all.len() == 1 && all[0].contains(near), "{variable}: {all:?}");
    }
    let all = problems("", &[("KEYTIDE_SERVER__LISTEN", "x"), ("KEYTIDE_SERVER__LISTEN__X", "x")]);
    assert!(all.iter().any(|line| line.contains("contradicts another variable")), "{all:?}");
}

#[test]
fn what_the_monitor_does() {
    use crate::monitor::{Action, EventType, Rule};
    let config = good(
        "[monitor]\nsensitivity = 1.5\nkeep = \"7d\"\n[monitor.auth_fail]\nthrottle = 2\nfactor = 0.1\n\
         block = 4\nspan = \"10m\"\n[monitor.abuse]\nblock = 5\n",
    );
    let (watch, span) = (&config.monitor.watch, Duration::from_secs(600));
    assert_eq!((watch.sensitivity, config.monitor.keep), (1.5, Duration::from_secs(7 * 86_400)));
    let rule = |event, severity, action| Rule { event: Some(event), severity, action };
    assert_eq!(
        watch.actions,
        [
            rule(EventType::AuthFail, 2, Action::Throttle { factor: 0.1, span }),
            rule(EventType::AuthFail, 4, Action::Block { span }),
            rule(EventType::Abuse, 5, Action::Block { span: Duration::from_secs(3600) }),
        ]
    );
    let from_env =
        load("", &[("KEYTIDE_MONITOR__SENSITIVITY", "0.5"), ("KEYTIDE_MONITOR__ABUSE__BLOCK", "3")]);
    let watch = from_env.unwrap().config.monitor.watch;
    assert_eq!((watch.sensitivity, watch.actions[0].severity), (0.5, 3));
    for (text, says) in [
        ("sensitivity = 3", "monitor.sensitivity (config.toml:2) must be a number from 0.5 to 2"),
        ("sensitivity = \"1\"", "monitor.sensitivity (config.toml:2) must be a number from 0.5 to 2"),
        ("sensitivity = nan", "must be a number from 0.5 to 2"),
        (
            "warm_up_days = 0",
            "monitor.warm_up_days (config.toml:2) must be a whole number from 1 to 60, not 0",
        ),
        ("max_keys = 1000000", "monitor.max_keys (config.toml:2) must be a whole number from 100 to 100000"),
        ("keep = \"1h\"", "monitor.keep (config.toml:2) must be a duration from 24h to 8760h"),
        (
            "window = \"24h\"\nlongest_window = \"1h\"",
            "monitor.longest_window (config.toml:3) must be at least",
        ),
        ("abuse.block = 6", "monitor.abuse.block (config.toml:2) must be a whole number from 0 to 5, not 6"),
        ("abuse.factor = 1", "monitor.abuse.factor (config.toml:2) must be a number from 0.01 to 0.99"),
        ("abuse.span = \"1s\"", "monitor.abuse.span (config.toml:2) must be a duration from 1m to 720h"),
        ("abuse = \"block\"", "monitor.abuse (config.toml:2) must be a table"),
    ] {
        let problem = one_problem(&format!("[monitor]\n{text}"));
        assert!(problem.contains(says), "{problem}");
    }
}

#[test]
fn broken_toml_is_named_by_line_without_its_text() {
    let secret = "0123456789abcdef-secret";
    for text in [
        format!("[server]\nadmin_token = \"{secret}\nworkers = 1\n"),
        format!("[server]\nadmin_token = {secret}\n"),
        format!("[server]\nadmin_token = \"{secret}\" x\n"),
        format!("[server]\nadmin_token = '''{secret}"),
        format!("[server]\nadmin_token = \"\\q{secret}\"\n"),
        format!("[server]\nworkers = 1 {secret}\n"),
    ] {
        let found = problems(&text, &NO_ENV);
        assert!(found[0].starts_with("config.toml:2 is not valid TOML: "), "{found:?}");
        assert!(!found.join("").contains("secret"), "{found:?}");
    }
    let twice = problems("[log]\nformat = \"text\"\nformat = \"json\"\n[\n", &NO_ENV);
    assert!(twice.len() >= 2 && twice[0].starts_with("config.toml:3 "), "{twice:?}");
}

#[test]
fn values_of_the_wrong_kind_or_out_of_bounds() {
    for (text, wrong) in [
        ("server = 1", "server (config.toml:1) must be a table, written like [server]"),
        ("[[providers]]\na = 1", "providers (config.toml:1) must be a table"),
        ("providers.ollama = true", "must be a table, written like [providers.ollama]"),
        ("server.listen = 8787", "must be text in quotes"),
        ("server.workers = \"2\"", "must be a whole number from 0 to 256"),
        ("server.workers = 1.5", "must be a whole number"),
        ("server.workers = 99999999999999999999999999999999999999999999", "must be a whole number"),
        ("server.workers = -1", "not -1"),
        ("server.public_stats = \"yes\"", "must be true or false"),
        ("server.max_body = \"999B\"", "must be a size from 1KB to 1GB"),
        ("server.max_body = \"2GB\"", "must be a size from 1KB to 1GB"),
        ("server.max_body = 1000", "must be a size"),
        ("server.header_timeout = 07:32:00", "must be a duration"),
        ("server.cors_origins = \"*\"", "must be a list of texts"),
        ("server.cors_origins = [1]", "must be a list of texts"),
        ("server.cors_origins = [\"x.com\"]", "must hold origins"),
        ("server.admin_token = \"with spaces in the token\"", "without spaces"),
        (
            "server.default_provider = \"nobody\"",
            "must be the name of a provider, one of \"ollama\", \"openrouter\"",
        ),
        ("store.dir = \" \"", "must be a folder's path"),
        ("store.flush_interval = \"11s\"", "from 10ms to 10s"),
        ("log.filter = \"keytide=loud\"", "must be a level or a filter"),
        ("sync.interval = \"0s\"", "from 1s to 1h"),
        ("sync.database_url = \"mysql://h\"", "must be like \"postgresql://"),
        ("sync.transport = \"postgres\"", "database_url"),
        ("sync.transport = \"rest\"\nsync.service_key = \"x\"", "sync.rest_url"),
        ("sync.rest_url = \"https://h\"", "service_key"),
        ("sync.batch_rows = 1", "from 10 to 20000"),
        ("sync.batch_bytes = \"1GB\"", "from 16KiB to 8MiB"),
        ("hubs.eu.interval = \"1m\"", "hubs.eu.database_url (config.toml:1) is missing; a hub needs it"),
        ("hubs.default.transport = \"off\"", "is the hub of [sync]"),
        ("hubs.EU.transport = \"off\"", "is no hub's name"),
        (
            "hubs.eu.transport = \"rest\"\nhubs.eu.service_key = \"x\"",
            "hubs.eu.transport = \"rest\" needs it",
        ),
        ("hubs.eu.transport = \"off\"\nhubs.eu.instance = \"x\"", "did you mean sync.instance?"),
        ("hubs.europe.transport = \"off\"\nproviders.ollama.hub = \"europ\"", "did you mean \"europe\"?"),
        ("providers.ollama.hub = \"asia\"", "must be the name of a hub, one of \"default\""),
        ("budget.egress = \"5GB\"", "written like \"5GB/month\""),
        ("budget.egress = \"1MB/month\"", "at least 10MB"),
        ("budget.hub = \"1MB\"", "must be a size of at least 15MB, written like \"1GB\""),
        ("budget.hub = \"1GB/month\"", "written like \"1GB\""),
        ("budget.local = \"-1\"", "at least 2MB"),
        ("hubs.eu.transport = \"off\"\nhubs.eu.budget = \"little\"", "at least 15MB"),
        ("sync.budget = \"1GB\"", "is not a known setting"),
        ("usage_log.enabled = \"perhaps\"", "usage_log.enabled"),
    ] {
        let problem = one_problem(text);
        assert!(problem.contains(wrong), "{problem}");
    }
}

#[test]
fn provider_rules() {
    for (text, wrong) in [
        ("[providers.new]\nenabled = true", "providers.new.base_url (config.toml:1) is missing"),
        ("[providers.new]\nbase_url = \"\"", "providers.new.base_url (config.toml:2) is missing"),
        ("[providers.v1]\nbase_url = \"http://h\"", "keytide's own paths"),
        ("[providers.\"openapi.json\"]\nbase_url = \"http://h\"", "keytide's own paths"),
        ("[providers.core]\nbase_url = \"http://h\"", "users and days"),
        ("providers.ollama.table_prefix = \"core\"", "users and days"),
        ("[providers.My_LLM]\nbase_url = \"http://h\"", "is no provider name"),
        ("[providers.x]\nbase_url = \"http://h\"\ntable_prefix = \"ollama_api\"", "providers.ollama"),
        ("providers.ollama.table_prefix = \"Drop Table\"", "lower-case letters"),
        ("providers.ollama.table_prefix = \"\"", "lower-case letters"),
        ("providers.ollama.base_url = \"http://user:hunter2@h\"", "must not hold a user name or password"),
        ("providers.ollama.base_url = \"ollama.com\"", "must be a full address"),
        ("providers.ollama.key_pattern = \"(\"", "must be a regular expression"),
        ("providers.ollama.strategy = \"best\"", "\"least_busy\""),
        ("providers.ollama.proxy = \"https://u:hunter2@h\"", "socks5h://"),
        ("providers.ollama.ca_file = \"/nowhere.pem\"", "must be a PEM file"),
        ("providers.ollama.ca_file = \"/\"", "is no file"),
        ("providers.ollama.auth_header = \"a b\"", "must be a header's name"),
        ("providers.ollama.auth_header = \"Host\"", "no key can travel"),
        ("providers.ollama.headers.Authorization = \"hunter2\"", "sets itself"),
        ("[providers.ollama]\nauth_header = \"X-Key\"\nheaders.x-key = \"hunter2\"", "sets itself"),
        ("providers.ollama.headers.\"a b\" = \"x\"", "is no header's name"),
        ("providers.ollama.headers.x = \"a\\nb\"", "control characters"),
        ("[providers.ollama.headers]\nX-Title = \"a\"\nx-title = \"b\"", "is given twice"),
        ("providers.ollama.status.200.treat_as = \"server\"", "from 300 to 599"),
        ("providers.ollama.status.0429.treat_as = \"server\"", "from 300 to 599"),
        ("providers.ollama.status.429.treat_as = \"ban\"", "\"rate_limit\""),
        ("providers.ollama.status.429.cooldown = \"31d\"", "from 1s to 720h"),
        ("providers.openrouter.status.403.cooldown = \"5m\"", "has no effect"),
        ("providers.ollama.probe.path = \"v1\"", "must be a path"),
        ("providers.ollama.probe.body = \"{}\"", "is only sent with"),
        ("[providers.ollama.probe]\nmethod = \"POST\"\nbody = \"{\"", "must be JSON"),
        ("providers.ollama.probe.method = \"DELETE\"", "\"HEAD\""),
        ("providers.ollama.policy.auth_steps = [\"1h\"]", "a list of 4 durations"),
        ("providers.ollama.policy.auth_steps = [\"1h\", \"1h\", \"1h\", \"x\"]", "a list of 4 durations"),
        ("providers.ollama.policy.server_first = \"10m\"", "must not be shorter than server_first"),
        ("providers.ollama.max_attempts = 11", "from 1 to 10"),
        ("providers.ollama.aliases.x = \"\"", "model names"),
        ("providers.ollama.aliases.x = 1", "must be text in quotes"),
        ("providers.ollama.models = [\"\"]", "model names"),
        ("providers.ollama.cache.max_size = \"1KB\"", "from 1MB to 10GB"),
    ] {
        let problem = one_problem(text);
        assert!(problem.contains(wrong), "{problem}");
        assert!(!problem.contains("hunter2"), "{problem}");
    }
}

#[test]
fn a_provider_with_everything() {
    let config = good(
        r#"
        server.default_provider = "x-2"
        [providers.x-2]
        base_url = "https://h/api/"
        auth_header = "x-api-key"
        proxy = "socks5://me:pass@10.0.0.1"
        headers = { X-Title = "me", X-Secret = "hush" }
        strategy = "least_busy"
        max_in_flight = 4
        requests_per_minute = 60
        aliases = { "gpt-4.1" = "llama" }
        models = ["extra"]
        cache = { enabled = true, ttl = "1m" }
        probe = { method = "POST", path = "/v1/x?y=1", body = "{}" }
        status.418 = { treat_as = "quota" }
        status.429.cooldown = "5s"
        status.503 = { cooldown = "1s" }
        "#,
    );
    let provider = &config.providers["x-2"];
    assert_eq!(provider.upstream.base(), "https://h/api");
    assert_eq!(
        (provider.table_prefix.as_str(), provider.pool.scheme),
        ("x_2_api", crate::pool::Scheme::Bare)
    );
    assert_eq!(provider.pool.strategy, pool::Strategy::LeastBusy);
    assert_eq!((provider.pool.max_in_flight, provider.pool.requests_per_minute), (Some(4), Some(60)));
    assert_eq!(provider.gateway.aliases["gpt-4.1"], "llama");
    assert_eq!(provider.gateway.cache.unwrap().ttl, Duration::from_secs(60));
    let rule = |status| provider.upstream.rules.lookup(status);
    assert_eq!((rule(418).treat_as, rule(418).cooldown), (Treat::Quota, Some(Duration::from_secs(21600))));
    assert_eq!((rule(429).treat_as, rule(429).cooldown), (Treat::RateLimit, Some(Duration::from_secs(5))));
    assert_eq!((rule(503).treat_as, rule(503).cooldown), (Treat::Server, Some(Duration::from_secs(1))));
    let shown = format!("{provider:?}");
    assert!(!shown.contains("hush") && !shown.contains("pass\""), "{shown}");
}

#[test]
fn a_default_provider_switched_off_is_noticed() {
    let loaded = load("providers.ollama.enabled = false", &NO_ENV).unwrap();
    assert_eq!(loaded.notices.len(), 1);
    assert!(loaded.notices[0].contains("\"ollama\" is switched off"));
}

#[test]
fn what_a_reload_cannot_change() {
    let old = Config::default();
    let new = good(
        "[server]\nlisten = \"127.0.0.1:1\"\npublic_stats = false\nworkers = 3\n[store]\ndurability = \"strict\"\n\
         [providers.ollama]\nstrategy = \"random\"\n[log]\nformat = \"json\"",
    );
    assert_eq!(
        old.restart_needed(&new),
        ["server.listen", "server.workers", "store.durability", "log.format"]
    );
    assert!(old.restart_needed(&old).is_empty());
}

#[test]
fn providers_choose_their_hub() {
    let text = "[sync]\ndatabase_url = \"postgres://h\"\ninstance = \"edge-1\"\n\
                [hubs.eu]\nrest_url = \"https://eu\"\nservice_key = \"k\"\ninterval = \"1m\"\nbatch_rows = 500\n\
                [hubs.idle]\ntransport = \"off\"\n\
                [providers.ollama]\nhub = \"eu\"\n\
                [providers.twin]\nbase_url = \"https://h\"\ntable_prefix = \"ollama_api\"\nhub = \"default\"\n\
                [budget]\negress = \"unlimited\"";
    let loaded = load(text, &NO_ENV).unwrap();
    let config = &loaded.config;
    assert_eq!((config.instance.as_deref(), config.budget.egress), (Some("edge-1"), None));
    let hubs = config.hubs();
    let [default, eu] = &hubs[..] else { panic!("{hubs:?}") };
    let of = |name: &str, prefix: &str| (name.to_owned(), prefix.to_owned());
    assert_eq!(default.name, DEFAULT_HUB);
    assert_eq!(default.providers, [of("openrouter", "openrouter_api"), of("twin", "ollama_api")]);
    assert_eq!((eu.name.as_str(), &eu.providers[..]), ("eu", &[of("ollama", "ollama_api")][..]));
    assert_eq!((eu.options.batch_rows, eu.options.interval), (500, Duration::from_secs(60)));
    assert_eq!(
        loaded.notices,
        ["no provider uses [hubs.idle]; name it with hub = \"idle\" under a provider"]
    );
    let moved = good(&text.replace("hub = \"eu\"", "hub = \"default\"\ntable_prefix = \"o\""));
    assert_eq!(config.restart_needed(&moved), ["which provider replicates where"]);
    let clash = one_problem(&text.replace("hub = \"eu\"", ""));
    assert!(clash.contains("must not be the same as that of providers.ollama, in the same hub"), "{clash}");
    let by_variable = [("KEYTIDE_HUBS__FAR_EAST__DATABASE_URL", "postgres://h")];
    let config = load("providers.ollama.hub = \"far-east\"", &by_variable).unwrap().config;
    assert_eq!(config.hubs()[0].name, "far-east");
    assert_eq!(Config::default().budget.egress, Some(5_000_000_000));
    assert!(Config::default().hubs().is_empty());
    // What belongs to no provider is in [sync]'s hub, also when all providers are elsewhere.
    let elsewhere =
        text.replace("hub = \"default\"", "hub = \"eu\"") + "\n[providers.openrouter]\nhub = \"eu\"";
    let elsewhere = good(&elsewhere.replace("table_prefix = \"ollama_api\"", "table_prefix = \"twin\""));
    let hubs: Vec<_> = elsewhere.hubs().into_iter().map(|hub| (hub.name, hub.providers.len())).collect();
    assert_eq!(hubs, [(DEFAULT_HUB.to_owned(), 0), ("eu".to_owned(), 3)]);
    // The database's URL may tell where its REST API is.
    let derived =
        good("sync.transport = \"rest\"\nsync.database_url = \"postgres://h\"\nsync.service_key = \"k\"");
    assert_eq!(derived.hubs().len(), 1);
}

#[test]
fn depth_is_refused_rather_than_walked() {
    for text in [
        format!("{} = 1", vec!["a"; 100_000].join(".")),
        format!("[{}]", vec!["a"; 100_000].join(".")),
        format!("x = {{ {} = 1 }}", vec!["a"; 100_000].join(".")),
        format!("x = {}", "[".repeat(100_000)),
        format!("x = {}", "{a=".repeat(100_000)),
    ] {
        assert!(load(&text, &NO_ENV).is_err());
    }
    let deep = format!("KEYTIDE_{}", vec!["A"; 20_000].join("__"));
    assert!(load("", &[(&deep, "x")]).is_err());
    let dots = format!("# {}\n[log]\nfilter = \"info\"", ".".repeat(200));
    assert_eq!(good(&dots), Config::default());
}

/// Names that lead somewhere, so that random trees reach the readers.
fn name() -> impl Strategy<Value = String> {
    let known = [
        "server",
        "store",
        "providers",
        "ollama",
        "new",
        "sync",
        "hubs",
        "hub",
        "budget",
        "egress",
        "log",
        "listen",
        "workers",
        "max_body",
        "status",
        "429",
        "headers",
        "aliases",
        "policy",
        "auth_steps",
        "cache",
        "probe",
        "base_url",
        "proxy",
        "admin_token",
        "database_url",
        "cors_origins",
        "key_pattern",
        "cooldown",
        "table_prefix",
        "filter",
    ];
    prop_oneof![4 => proptest::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => ".{0,12}"]
}

fn tree() -> impl Strategy<Value = toml::Value> {
    let texts =
        ["127.0.0.1:1", "http://u:p@h:1", "5s", "1GB", "a,b=c", "", "é\u{0}\n", "[::]:1", "(", "sk-hidden"];
    let leaf = prop_oneof![
        any::<bool>().prop_map(toml::Value::from),
        any::<i64>().prop_map(toml::Value::from),
        any::<f64>().prop_map(toml::Value::from),
        ".{0,20}".prop_map(toml::Value::from),
        proptest::sample::select(texts.to_vec()).prop_map(toml::Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            1 => proptest::collection::vec(inner.clone(), 0..4).prop_map(toml::Value::Array),
            4 => proptest::collection::btree_map(name(), inner, 0..6)
                .prop_map(|map| toml::Value::Table(map.into_iter().collect())),
        ]
    })
}

/// TOML text of a tree; the parser is the only part of the crate that is built in.
fn print(value: &toml::Value) -> String {
    let quoted = |text: &str| {
        let escaped = text.chars().map(|c| match c {
            '"' | '\\' => format!("\\{c}"),
            c if c.is_control() => format!("\\U{:08X}", u32::from(c)),
            c => c.to_string(),
        });
        format!("\"{}\"", escaped.collect::<String>())
    };
    match value {
        toml::Value::String(text) => quoted(text),
        toml::Value::Array(items) => format!("[{}]", items.iter().map(print).collect::<Vec<_>>().join(", ")),
        toml::Value::Table(table) => {
            let pairs = table.iter().map(|(key, value)| format!("{} = {}", quoted(key), print(value)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
        toml::Value::Float(number) if number.is_nan() => "nan".to_owned(),
        toml::Value::Float(number) => format!("{number:?}"),
        toml::Value::Datetime(_) => "07:32:00".to_owned(),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Boolean(on) => on.to_string(),
    }
}

proptest! {
    #[test]
    fn no_tree_panics(sections in proptest::collection::btree_map(name(), tree(), 0..6)) {
        let lines = sections.iter().map(|(name, value)| {
            let table = toml::Value::Table([(name.clone(), value.clone())].into_iter().collect());
            let printed = print(&table);
            printed[1..printed.len() - 1].to_owned()
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        if let Err(error) = load(&text, &NO_ENV) {
            prop_assert!(!error.problems.is_empty());
            prop_assert!(!error.to_string().contains("is not valid TOML"), "{}\n{}", text, error);
            prop_assert!(!error.to_string().contains("u:p@"), "{}", error);
        }
    }

    #[test]
    fn no_text_panics(text in "(?s).{0,200}") {
        let _ = load(&text, &NO_ENV);
    }

    #[test]
    fn no_variable_panics(
        path in proptest::collection::vec(name(), 0..6),
        other in proptest::collection::vec(name(), 0..6),
        value in ".{0,30}",
    ) {
        let variable = |path: &[String]| format!("KEYTIDE_{}", path.join("__").to_uppercase());
        let _ = load("", &[(&variable(&path), &value), (&variable(&other), "5s"), ("DATABASE_URL", &value)]);
    }
}

#[test]
fn days_have_a_zone_and_proxies_are_networks() {
    let zone = |text: &str| good(&format!("[limits]\ntime_zone = \"{text}\"")).limits.time_zone;
    for (text, name) in
        [("Asia/Shanghai", "Asia/Shanghai"), ("europe/berlin", "Europe/Berlin"), (" UTC ", "UTC")]
    {
        assert_eq!(zone(text), name);
    }
    for (text, near) in [
        ("Asia/Shangai", "did you mean \"Asia/Shanghai\"?"),
        ("Shanghai", "did you mean \"Asia/Shanghai\"?"),
        ("America/Berlin", "did you mean \"Europe/Berlin\"?"),
        ("New York", "did you mean \"America/New_York\"?"),
        ("+08:00", "must be the name of a time zone"),
        ("", "must be the name of a time zone"),
        ("../../etc/passwd", "must be the name of a time zone"),
        ("Mars/Olympus", "must be the name of a time zone"),
    ] {
        let problem = one_problem(&format!("[limits]\ntime_zone = \"{text}\""));
        assert!(
            problem.starts_with("limits.time_zone (config.toml:2)") && problem.contains(near),
            "{problem}"
        );
    }
    let proxies = good("[server]\ntrusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\", \"::1\"]");
    assert_eq!(proxies.server.gateway.trusted_proxies.len(), 3);
    let problem = one_problem("[server]\ntrusted_proxies = [\"10.0.0.0/8\", \"proxy.example\"]");
    assert!(problem.contains("must be an address or a network"), "{problem}");
}

#[test]
fn budgets_are_of_each_hub_and_of_the_file() {
    let defaults = Config::default().budget;
    assert_eq!((defaults.hub, defaults.local), (Some(1_000_000_000), Some(256_000_000)));
    let hub = |name: &str| format!("[hubs.{name}]\ndatabase_url = \"postgres://h/{name}\"\n");
    let text = format!(
        "{}budget = \"50MB\"\n{}{}budget = \"unlimited\"\n[budget]\nhub = \"450MB\"\nlocal = \"64MiB\"\n\
         [providers.ollama]\nhub = \"a\"\n[providers.openrouter]\nhub = \"b\"\n\
         [providers.x]\nbase_url = \"http://x\"\nhub = \"c\"\n",
        hub("a"),
        hub("b"),
        hub("c"),
    );
    let config = good(&text);
    let found: Vec<_> = config.hubs().into_iter().map(|hub| (hub.name, hub.budget)).collect();
    let expected = [("a", Some(50_000_000)), ("b", Some(450_000_000)), ("c", None)];
    assert_eq!(found, expected.map(|(name, budget)| (name.to_owned(), budget)));
    assert_eq!(config.store.budget, Some(64 << 20));
    let other = good(&text.replace("64MiB", "unlimited").replace("450MB", "500MB"));
    assert_eq!(other.store.budget, None);
    assert_eq!(config.restart_needed(&other), ["budget.hub", "budget.local"]);
}

#[test]
fn a_log_of_requests_without_a_hub_is_said_to_keep_nothing() {
    let notices = |text: &str| load(text, &[]).unwrap().notices.join("\n");
    assert!(notices("usage_log.enabled = true").contains("keeps nothing"));
    assert!(
        !notices("usage_log.enabled = true\nsync.database_url = \"postgres://h\"").contains("keeps nothing")
    );
    assert!(good("usage_log.enabled = true").usage_log && !Config::default().usage_log);
}
