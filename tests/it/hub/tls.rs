//! Certificates: whom keytide trusts, and what it says of whom it does not.

use std::{path::PathBuf, time::Duration};

use keytide::replica::{
    postgres::{self, Postgres},
    transport::{ErrorKind, Transport},
    wire::Function,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};

use super::{PASSWORD, hub, skipped, url};
use crate::pg::{Cluster, Options};

#[derive(Clone, Copy, PartialEq)]
pub enum Age {
    Valid,
    Expired,
    Future,
}

/// A server's certificate and its key.
pub struct Files {
    certificate: String,
    key: String,
}

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: tempfile::TempDir,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("root.pem"), issuer.pem()).unwrap();
        Self { issuer, dir }
    }

    pub fn file(&self) -> PathBuf {
        self.dir.path().join("root.pem")
    }

    pub fn issue(&self, names: &[&str], age: Age) -> Files {
        let key = KeyPair::generate().unwrap();
        let certificate = params(names, age).signed_by(&key, &*self.issuer).unwrap();
        Files { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

fn params(names: &[&str], age: Age) -> CertificateParams {
    let mut params =
        CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
    (params.not_before, params.not_after) = match age {
        Age::Valid => (date_time_ymd(2020, 1, 1), date_time_ymd(2090, 1, 1)),
        Age::Expired => (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1)),
        Age::Future => (date_time_ymd(2089, 1, 1), date_time_ymd(2090, 1, 1)),
    };
    params
}

/// Of the kind that Postgres's manual makes: its own issuer.
fn self_signed(names: &[&str]) -> Files {
    let key = KeyPair::generate().unwrap();
    let mut params = params(names, Age::Valid);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Files { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

pub fn options(files: &Files) -> Options {
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Options {
        passwords: true,
        tls_only: true,
        settings: vec![
            setting("ssl", "on"),
            setting("ssl_cert_file", "server.crt"),
            setting("ssl_key_file", "server.key"),
        ],
        files: vec![
            ("server.crt".to_owned(), files.certificate.clone()),
            ("server.key".to_owned(), files.key.clone()),
        ],
        ..Options::default()
    }
}

/// The files keep their owner: only what is in them changes.
pub fn exchange(cluster: &mut Cluster, files: &Files) {
    std::fs::write(cluster.data().join("server.crt"), &files.certificate).unwrap();
    std::fs::write(cluster.data().join("server.key"), &files.key).unwrap();
    cluster.restart();
}

/// What comes of a call over such a URL: nothing, or the kind of failure and its text.
async fn attempt(cluster: &Cluster, query: &str) -> Option<(ErrorKind, String)> {
    let postgres = match Postgres::new(&postgres::Options::new(url(cluster.port, query))) {
        Ok(postgres) => postgres,
        Err(error) => return Some((error.kind, error.to_string())),
    };
    let error = postgres.call(Function::Hello, "{}").await.err()?;
    assert!(!error.to_string().contains(PASSWORD));
    Some((error.kind, error.to_string()))
}

async fn refuses(cluster: &Cluster, query: &str, expected: ErrorKind, words: &str) {
    let Some((kind, text)) = attempt(cluster, query).await else { panic!("{query} was accepted") };
    assert!(kind == expected && text.contains(words), "{query}: {kind:?}: {text}");
}

async fn accepts(cluster: &Cluster, query: &str) {
    assert_eq!(attempt(cluster, query).await, None, "{query}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_checked_as_far_as_the_url_says() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let test = async {
        let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
        let root = ours.file().display().to_string();
        let with_root = |mode: &str| format!("sslmode={mode}&sslrootcert={root}");
        let mut cluster = hub(options(&ours.issue(&["127.0.0.1"], Age::Valid))).await;
        for query in [
            "sslmode=require".to_owned(),
            "sslmode=prefer".to_owned(),
            String::new(),
            "sslmode=require&channel_binding=require".to_owned(),
            "sslmode=require&channel_binding=disable".to_owned(),
            with_root("require"),
            with_root("verify-ca"),
            with_root("verify-full"),
            format!("sslrootcert={root}"),
        ] {
            accepts(&cluster, &query).await;
        }
        refuses(&cluster, "sslmode=verify-full&sslrootcert=system", ErrorKind::Certificate, "not trusted")
            .await;
        refuses(&cluster, "sslmode=verify-full", ErrorKind::Certificate, "not trusted").await;
        let other = format!("sslmode=verify-ca&sslrootcert={}", theirs.file().display());
        refuses(&cluster, &other, ErrorKind::Certificate, "not trusted").await;
        refuses(&cluster, "sslmode=disable", ErrorKind::Credentials, "").await;
        refuses(
            &cluster,
            "sslrootcert=/nowhere/root.pem",
            ErrorKind::Settings,
            "sslrootcert /nowhere/root.pem",
        )
        .await;
        let empty = tempfile::NamedTempFile::new().unwrap();
        let query = format!("sslrootcert={}", empty.path().display());
        refuses(&cluster, &query, ErrorKind::Settings, "no PEM certificate").await;

        exchange(&mut cluster, &ours.issue(&["elsewhere.example"], Age::Valid));
        accepts(&cluster, &with_root("verify-ca")).await;
        refuses(&cluster, &with_root("verify-full"), ErrorKind::Certificate, "another name").await;

        exchange(&mut cluster, &ours.issue(&["127.0.0.1"], Age::Expired));
        accepts(&cluster, "sslmode=require").await;
        refuses(&cluster, &with_root("verify-ca"), ErrorKind::Certificate, "has expired").await;
        exchange(&mut cluster, &ours.issue(&["127.0.0.1"], Age::Future));
        refuses(&cluster, &with_root("verify-full"), ErrorKind::Certificate, "not valid yet").await;

        let own = self_signed(&["127.0.0.1"]);
        exchange(&mut cluster, &own);
        let file = ours.dir.path().join("own.pem");
        std::fs::write(&file, &own.certificate).unwrap();
        accepts(&cluster, &format!("sslmode=verify-full&sslrootcert={}", file.display())).await;
        refuses(&cluster, &with_root("verify-ca"), ErrorKind::Certificate, "").await;
    };
    tokio::time::timeout(Duration::from_secs(120), test).await.expect("the test does not end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_not_used_in_the_open_by_mistake() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let cluster = hub(Options { passwords: true, ..Options::default() }).await;
    refuses(&cluster, "sslmode=require", ErrorKind::Settings, "offers no TLS").await;
    refuses(&cluster, "sslmode=verify-full", ErrorKind::Settings, "sslmode=disable").await;
    refuses(&cluster, "sslmode=prefer&channel_binding=require", ErrorKind::Credentials, "channel binding")
        .await;
    accepts(&cluster, "sslmode=prefer").await;
    accepts(&cluster, "sslmode=disable").await;
}
