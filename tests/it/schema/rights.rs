//! Who may do what: `check` sees every way in, and `apply` closes it.

use keytide::replica::schema;
use tokio_postgres::Client;

use super::{OLLAMA, hub};
use crate::{
    hub::skipped,
    pg::{Cluster, Options},
};

async fn found(client: &Client) -> Vec<String> {
    let problems = schema::check(client, &[OLLAMA]).await.unwrap().problems;
    problems.into_iter().map(|problem| problem.what).collect()
}

async fn is_closed_by_applying(client: &Client) {
    let left = schema::apply(client, &[OLLAMA], false).await.unwrap().left;
    assert!(left.problems.is_empty(), "{left:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_everybody_may_is_seen_where_nobody_has_a_name() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    // A database without Supabase's roles.
    let (_cluster, client) = hub().await;
    client
        .batch_execute(
            "GRANT SELECT ON ollama_api_keys TO PUBLIC; GRANT SELECT (token) ON ollama_api_client_tokens TO PUBLIC; \
             GRANT EXECUTE ON FUNCTION keytide_pull TO PUBLIC",
        )
        .await
        .unwrap();
    assert_eq!(
        found(&client).await,
        [
            "everybody (PUBLIC) has rights on the column ollama_api_client_tokens.token",
            "everybody (PUBLIC) has rights on the function keytide_pull",
            "everybody (PUBLIC) has rights on the table ollama_api_keys"
        ]
    );
    is_closed_by_applying(&client).await;

    client
        .batch_execute("CREATE ROLE anon; GRANT SELECT (api_key) ON ollama_api_keys TO anon")
        .await
        .unwrap();
    assert_eq!(found(&client).await, ["the role anon has rights on the table ollama_api_keys"]);
    is_closed_by_applying(&client).await;
    client.batch_execute("GRANT SELECT ON ollama_api_keys TO PUBLIC").await.unwrap();
    assert_eq!(found(&client).await.len(), 1, "what everybody may is said once");
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_closed_like_their_table() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let cluster = Cluster::start(Options::default());
    let client = cluster.database("hub").await;
    client
        .batch_execute(
            "CREATE ROLE anon; ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO anon;
             CREATE TABLE ollama_api_model_hourly (id SERIAL, provider TEXT, model TEXT, hour TIMESTAMPTZ, requests BIGINT,
                 success BIGINT, failure BIGINT, PRIMARY KEY (id, hour), UNIQUE (provider, model, hour)) PARTITION BY RANGE (hour);
             CREATE TABLE hours_before PARTITION OF ollama_api_model_hourly FOR VALUES FROM (MINVALUE) TO ('2026-01-01Z')
                 PARTITION BY RANGE (hour);
             CREATE TABLE hours_early PARTITION OF hours_before FOR VALUES FROM (MINVALUE) TO ('2020-01-01Z');",
        )
        .await
        .unwrap();
    is_closed_by_applying(&client).await;
    client
        .batch_execute(
            "CREATE TABLE hours_after PARTITION OF ollama_api_model_hourly FOR VALUES FROM ('2026-01-01Z') TO (MAXVALUE);
             ALTER TABLE hours_early DISABLE ROW LEVEL SECURITY",
        )
        .await
        .unwrap();
    assert_eq!(
        found(&client).await,
        [
            "row level security is off for hours_after",
            "row level security is off for hours_early",
            "the role anon has rights on the table hours_after"
        ]
    );
    is_closed_by_applying(&client).await;
}
