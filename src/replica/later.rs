//! A way to a hub that cannot be taken as things are: a certificate's file that cannot be read, an address that says
//! nothing. Every call tries anew and otherwise says what is wrong, so that such a hub is in trouble like any other
//! and keeps nobody from being served.

use std::sync::{Arc, OnceLock};

use futures_util::future::BoxFuture;

use super::{
    postgres,
    route::{self, Options, Way},
    transport::{Error, ErrorKind, Reply, Traffic, Transport},
    wire::Function,
};

pub struct Later {
    options: Options,
    way: Way,
    made: OnceLock<Arc<dyn Transport>>,
}

impl Later {
    pub fn new(options: Options, way: Way) -> Self {
        Self { options, way, made: OnceLock::new() }
    }

    fn transport(&self) -> Result<Arc<dyn Transport>, Error> {
        if let Some(made) = self.made.get() {
            return Ok(made.clone());
        }
        let route = route::choose(&self.options)?;
        let route = route.ok_or_else(|| Error::new(ErrorKind::Settings, "no way to the hub is set"))?;
        Ok(self.made.get_or_init(|| route.transport).clone())
    }
}

impl Transport for Later {
    fn call<'a>(&'a self, function: Function, request: &'a str) -> BoxFuture<'a, Result<Reply, Error>> {
        Box::pin(async move { self.transport()?.call(function, request).await })
    }

    fn vacuum<'a>(&'a self, table: &'a str) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async move { self.transport()?.vacuum(table).await })
    }

    fn target(&self) -> String {
        if let Some(made) = self.made.get() {
            return made.target();
        }
        let found = match self.way {
            Way::Postgres => self.options.database_url.as_ref().and_then(postgres::host_and_user),
            Way::Rest => None,
        };
        let host = found.map(|(host, _)| host).or_else(|| self.options.rest_url.clone());
        host.unwrap_or_else(|| "an address that cannot be used".to_owned())
    }

    fn kind(&self) -> &'static str {
        match self.way {
            Way::Postgres => "postgres",
            Way::Rest => "rest",
        }
    }

    fn traffic(&self) -> Traffic {
        self.made.get().map(|made| made.traffic()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Secret, replica::route::Choice};

    #[tokio::test]
    async fn what_is_wrong_is_said_at_each_call_until_it_is_right() {
        let _chosen_before = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root.pem");
        let url =
            format!("postgres://u:secret@127.0.0.1:1/db?sslmode=verify-full&sslrootcert={}", root.display());
        let database_url = Some(Secret::new(url));
        let options = Options { transport: Choice::Auto, database_url, ..Options::default() };
        let later = Later::new(options, Way::Postgres);
        for _ in 0..2 {
            let error = later.call(Function::Hello, "{}").await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Settings);
            assert!(error.detail.contains("root.pem") && !error.detail.contains("secret"), "{error}");
        }
        assert_eq!((later.target().as_str(), later.kind()), ("127.0.0.1", "postgres"));
        let certificate = rcgen::generate_simple_self_signed(["hub.example".to_owned()]).unwrap().cert;
        std::fs::write(&root, certificate.pem()).unwrap();
        let error = later.call(Function::Hello, "{}").await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
        assert!(later.target().ends_with("127.0.0.1:1/db"), "{}", later.target());
    }
}
