//! `keytide schema`, as a person runs it.

use std::process::Command;

use super::rows;
use crate::{
    hub::skipped,
    pg::{Cluster, Options},
    replication::cutter::Cutter,
};

/// Exit code, stdout, stderr.
fn keytide(arguments: &[&str], env: &[(&str, &str)]) -> (i32, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let done = Command::new(env!("CARGO_BIN_EXE_keytide"))
        .env_clear()
        .envs(env.iter().copied())
        .arg("schema")
        .args(arguments)
        .current_dir(dir.path())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code().unwrap(), text(&done.stdout), text(&done.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_is_printed_applied_and_checked_from_the_command_line() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let cluster = Cluster::start(Options::default());
    let client = cluster.database("hub").await;
    let url = cluster.url("hub", "postgres");
    let env = [("DATABASE_URL", url.as_str())];

    let (code, out, err) = keytide(&["check"], &env);
    assert_eq!(code, 1, "{out}{err}");
    assert!(out.contains("the schema is not there") && err.contains("1 problem was found"), "{out}{err}");
    let (code, out, err) = keytide(&["apply", "--provider", "ollama"], &env);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("added table ollama_api_keys") && !out.contains("openrouter"), "{out}");
    let (code, out, _) = keytide(&["apply", "--provider", "ollama"], &env);
    assert_eq!((code, out.as_str()), (0, "everything was there already\n"));
    // One line for each hub.
    let (code, out, _) = keytide(&["check", "--json"], &env);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &report["sound"], &report["schema"]),
        (1, &false.into(), &1.into()),
        "openrouter is missing"
    );
    assert_eq!((&report["hub"], out.lines().count()), (&"default".into(), 1));
    assert_eq!(report["problems"][0]["stream"], "openrouter_api");

    let (code, sql, _) = keytide(&["print"], &[]);
    assert_eq!(code, 0);
    client.batch_execute(&sql).await.unwrap();
    let (code, out, err) = keytide(&["check"], &env);
    assert_eq!((code, out.as_str()), (0, "the schema is there, complete and closed to others\n"), "{err}");
    assert_eq!(
        rows(&client, "SELECT string_agg(stream, ' ' ORDER BY stream) FROM keytide_providers").await,
        "ollama_api openrouter_api"
    );

    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let mut written = Vec::new();
    for _ in 0..2 {
        let (code, out, err) = keytide(&["print", "--supabase", folder], &[]);
        assert_eq!(code, 0, "{err}");
        let mut names: Vec<_> = std::fs::read_dir(dir.path().join("supabase/migrations"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(out.lines().count(), names.len());
        written.push(names);
    }
    assert_eq!(written[0], written[1], "a second run makes no second migration");
    let mut numbers: Vec<_> = written[0].iter().map(|name| name.split('_').next().unwrap()).collect();
    numbers.dedup();
    assert_eq!(numbers.len(), written[0].len(), "Supabase tells migrations apart by their number");
    let again = cluster.database("migrated").await;
    for name in &written[0] {
        let sql = std::fs::read_to_string(dir.path().join("supabase/migrations").join(name)).unwrap();
        again.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
    }

    let rest =
        [("SUPABASE_REST_URL", "https://ref.supabase.co/rest/v1"), ("SUPABASE_SERVICE_ROLE_KEY", "eyJ")];
    let (code, out, err) = keytide(&["apply"], &rest);
    assert!(code == 1 && err.contains("paste") && err.contains("1 hub was not changed"), "{err}");
    assert_eq!(out, sql, "what is to be pasted");
    let (code, _, err) = keytide(&["print", "--provider", "nobody"], &[]);
    assert!(code == 2 && err.contains("ollama, openrouter"), "{err}");
}

/// Without keeping this test's other tasks from what they do meanwhile.
async fn keytide_beside(
    arguments: &'static [&'static str],
    env: Vec<(&'static str, String)>,
) -> (i32, String, String) {
    let run = move || {
        let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        keytide(arguments, &env)
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_was_changed_is_said_only_where_it_is_so() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let cluster = Cluster::start(Options::default());
    let cutter = Cutter::start(cluster.port).await;
    let database = cluster.database("hub").await;
    let there = "SELECT to_regclass('public.keytide_settings') IS NOT NULL";
    let url = format!("postgresql://postgres@127.0.0.1:{}/hub?sslmode=disable", cutter.port);
    let env = || vec![("DATABASE_URL", url.clone())];

    cutter.cut_next_request("COMMIT");
    let (code, out, err) = keytide_beside(&["apply"], env()).await;
    assert!(code == 1 && err.contains("is not known") && !err.contains("nothing was changed"), "{out}{err}");
    assert_eq!(rows(&database, there).await, "f");
    // Its answer holds no rows; those that follow do.
    cutter.cut_next_answer("COMMIT");
    let (code, out, err) = keytide_beside(&["apply"], env()).await;
    assert!(code == 1 && err.contains("was applied") && err.contains("keytide schema check"), "{out}{err}");
    assert!(!err.contains("nothing was changed"), "{err}");
    assert_eq!(rows(&database, there).await, "t");
    let (code, out, err) = keytide_beside(&["apply"], env()).await;
    assert_eq!((code, out.as_str()), (0, "everything was there already\n"), "{err}");

    // The first of two hubs is changed, the second cannot be.
    cluster.database("first").await;
    let two = |first: u16| {
        vec![
            (
                "KEYTIDE_SYNC__DATABASE_URL",
                cluster.url("first", "postgres").replace(&cluster.port.to_string(), &first.to_string()),
            ),
            ("KEYTIDE_HUBS__EU__DATABASE_URL", cluster.url("nowhere", "postgres")),
            ("KEYTIDE_PROVIDERS__OPENROUTER__HUB", "eu".to_owned()),
        ]
    };
    let (code, out, err) = keytide_beside(&["apply"], two(cluster.port)).await;
    assert_eq!(code, 1, "{out}{err}");
    assert!(err.contains("nothing of the hub eu was changed") && err.contains("stays (default)"), "{err}");
    let (code, _, err) = keytide_beside(&["apply"], two(1)).await;
    assert!(code == 1 && err.contains("; nothing was changed"), "{err}");
}
