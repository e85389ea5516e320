//! A REST API like PostgREST's over a cluster, with Supabase's roles, and keys as Supabase's older ones.

use std::process::Command;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{DATABASE, Server, free_port, tool};

const SECRET: &str = "a secret of the tests, of 32 bytes at least";

pub struct Postrust {
    pub base: String,
    _server: Server,
}

impl Postrust {
    pub async fn start(postgres: u16) -> Self {
        Self::start_for(postgres, "visitor").await
    }

    /// Callers without a key are in that role.
    pub async fn start_for(postgres: u16, anon: &str) -> Self {
        let program = tool("postrust", "HUB_POSTRUST");
        for _ in 0..5 {
            let port = free_port();
            let mut command = Command::new(&program);
            command
                .env_clear()
                .env(
                    "PGRST_DB_URI",
                    format!("postgres://authenticator:letmein@127.0.0.1:{postgres}/{DATABASE}"),
                )
                .env("PGRST_DB_SCHEMAS", "public")
                .env("PGRST_DB_ANON_ROLE", anon)
                .env("PGRST_JWT_SECRET", SECRET)
                .env("PGRST_SERVER_HOST", "127.0.0.1")
                .env("PGRST_SERVER_PORT", port.to_string())
                // The database's messages pass through, as PostgREST does it.
                .env("PGRST_COMPAT_MODE", "true")
                .env("PGRST_LOG_LEVEL", "error");
            if let Some(server) = Server::start(&mut command, port).await {
                return Self { base: format!("http://127.0.0.1:{port}"), _server: server };
            }
        }
        panic!("postrust does not start");
    }
}

/// A key for a role, signed with HS256.
pub fn key(role: &str) -> String {
    signed(SECRET, &json!({ "iss": "supabase", "role": role, "exp": 4_000_000_000_u32 }))
}

/// One that nobody here has signed.
pub fn forged_key() -> String {
    signed("another secret, also of 32 bytes or more", &json!({ "role": "service_role" }))
}

fn signed(secret: &str, claims: &Value) -> String {
    let part = |text: String| BASE64_URL_SAFE_NO_PAD.encode(text);
    let text =
        format!("{}.{}", part(json!({ "alg": "HS256", "typ": "JWT" }).to_string()), part(claims.to_string()));
    let signature = BASE64_URL_SAFE_NO_PAD.encode(hmac(secret.as_bytes(), text.as_bytes()));
    format!("{text}.{signature}")
}

/// RFC 2104, for secrets of at most a block.
fn hmac(secret: &[u8], text: &[u8]) -> impl AsRef<[u8]> {
    let keyed = |mask: u8| {
        let mut block = [mask; 64];
        block.iter_mut().zip(secret).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let inner = Sha256::new().chain_update(keyed(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(keyed(0x5c)).chain_update(inner).finalize()
}
