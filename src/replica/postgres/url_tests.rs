use super::*;

fn parse(text: &str) -> Result<Address, Error> {
    Address::parse(&Secret::new(text))
}

fn tcp(host: &str, port: u16) -> Place {
    Place::Tcp { host: host.into(), port }
}

#[test]
fn supabases_and_prismas_urls_are_read() {
    let address = parse(
        "postgresql://postgres.abcdefgh:s3cr3t@aws-0-eu-central-1.pooler.supabase.com:6543/postgres?pgbouncer=true&\
         connection_limit=1&pool_timeout=20&schema=public&connect_timeout=3&application_name=edge",
    )
    .unwrap();
    assert_eq!(address.place, tcp("aws-0-eu-central-1.pooler.supabase.com", 6543));
    assert_eq!(address.user, "postgres.abcdefgh");
    assert_eq!(address.password.unwrap().expose(), "s3cr3t");
    assert_eq!(address.database, "postgres");
    assert_eq!(address.connect_timeout, Some(Duration::from_secs(3)));
    assert_eq!(address.application_name.as_deref(), Some("edge"));
    assert_eq!((address.encryption, address.check), (Encryption::Always, Check::Nothing));
    assert_eq!(address.warnings.len(), 1);
    assert!(address.warnings[0].contains("sslrootcert"), "{:?}", address.warnings);
}

#[test]
fn passwords_may_hold_anything() {
    for (written, expected) in [
        ("p%40ss%2Fw%3Ard", "p@ss/w:rd"),
        ("p@ss", "p@ss"),
        ("p/ss", "p/ss"),
        ("p#ss?x", "p#ss?x"),
        ("p@s/s@x", "p@s/s@x"),
        ("100%", "100%"),
        ("a:b", "a:b"),
        ("пароль", "пароль"),
        ("with%20space", "with space"),
    ] {
        let address =
            parse(&format!("postgres://u:{written}@db.example.com:6543/keytide?sslmode=require")).unwrap();
        assert_eq!(address.password.as_ref().unwrap().expose(), expected, "{written}");
        assert_eq!(address.place, tcp("db.example.com", 6543), "{written}");
        assert_eq!((address.user.as_str(), address.database.as_str()), ("u", "keytide"), "{written}");
        assert!(!format!("{address:?} {}", address.shown()).contains(expected), "{written}");
    }
    assert!(parse("postgres://u@localhost/db").unwrap().password.is_none());
}

#[test]
fn hosts_ports_sockets_and_defaults() {
    let v6 = parse("postgres://u:p@[::1]:6000/db").unwrap();
    assert_eq!((v6.place.clone(), v6.shown()), (tcp("::1", 6000), "postgres://[::1]:6000/db".to_owned()));
    assert_eq!(parse("postgres://u@[2001:db8::1]").unwrap().place, tcp("2001:db8::1", 5432));
    assert_eq!(parse("postgres://u@h").unwrap().database, "u");
    let socket = Place::Unix("/run/pg/.s.PGSQL.5433".into());
    for url in [
        "postgres://u@%2Frun%2Fpg:5433/db",
        "postgres:///db?host=/run/pg&port=5433&user=u",
        "postgres://u:p@/db?host=%2Frun%2Fpg&port=5433",
    ] {
        let address = parse(url).unwrap();
        assert_eq!((&address.place, address.encryption), (&socket, Encryption::Never), "{url}");
        assert_eq!((address.user.as_str(), address.database.as_str()), ("u", "db"), "{url}");
    }
}

#[test]
fn sslmode_is_read_as_libpq_does_and_its_absence_strictly() {
    let file = || Roots::File("/ca.pem".into());
    for (host, query, expected) in [
        ("h", "sslmode=disable", (Encryption::Never, Check::Nothing, Roots::Public)),
        ("h", "sslmode=prefer", (Encryption::IfOffered, Check::Nothing, Roots::Public)),
        ("h", "sslmode=require", (Encryption::Always, Check::Nothing, Roots::Public)),
        ("h", "sslmode=require&sslrootcert=/ca.pem", (Encryption::Always, Check::Chain, file())),
        ("h", "sslmode=verify-ca&sslrootcert=/ca.pem", (Encryption::Always, Check::Chain, file())),
        ("h", "sslmode=verify-full&sslrootcert=%2Fca.pem", (Encryption::Always, Check::ChainAndName, file())),
        ("h", "sslrootcert=/ca.pem", (Encryption::Always, Check::ChainAndName, file())),
        ("h", "sslrootcert=system", (Encryption::Always, Check::ChainAndName, Roots::Public)),
        ("h", "", (Encryption::Always, Check::Nothing, Roots::Public)),
        ("localhost", "", (Encryption::IfOffered, Check::Nothing, Roots::Public)),
        ("127.0.0.9", "", (Encryption::IfOffered, Check::Nothing, Roots::Public)),
        ("[::1]", "", (Encryption::IfOffered, Check::Nothing, Roots::Public)),
    ] {
        let address = parse(&format!("postgres://u:p@{host}/db?{query}")).unwrap();
        assert_eq!((address.encryption, address.check, address.roots), expected, "{host} {query}");
        assert_eq!(address.warnings.len(), usize::from(host == "h" && query.is_empty()), "{host} {query}");
    }
}

#[test]
fn what_cannot_be_used_is_said_without_the_password() {
    for (url, why) in [
        ("mysql://u:hunter2hunter2@h/db", "must be like"),
        ("host=h user=u password=hunter2hunter2", "must be like"),
        ("postgres://u:hunter2hunter2@/db", "names no host"),
        ("postgres://h/db?password=hunter2hunter2", "names no user"),
        ("postgres://u:hunter2hunter2@h:port/db", "port"),
        ("postgres://u:hunter2hunter2@h:0/db", "port"),
        ("postgres://u:hunter2hunter2@a,b/db", "several hosts"),
        ("postgres://u:hunter2hunter2@[::1/db", "["),
        ("postgres://u:[YOUR-PASSWORD]@h/db", "placeholder"),
        ("postgres://u:hunter2hunter2@h/db?sslmode=strict", "sslmode"),
        ("postgres://u:hunter2hunter2@h/db?sslmode=require&sslrootcert=system", "verify-full"),
        ("postgres://u:hunter2hunter2@h/db?sslcert=/x", "client certificates"),
        ("postgres://u:hunter2hunter2@h/db?connect_timeout=soon", "connect_timeout"),
        ("postgres://u:%FFhunter2hunter2@h/db", "UTF-8"),
    ] {
        let error = parse(url).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Settings, "{url}");
        assert!(error.detail.starts_with("DATABASE_URL ") && error.detail.contains(why), "{url}: {error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn unknown_parameters_are_named_and_left_out() {
    let address =
        parse("postgres://u:p@h/db?sslmode=require&sslaccept=strict&schema=mine&supa=base-pooler.x").unwrap();
    assert_eq!(address.warnings.len(), 2, "{:?}", address.warnings);
    assert!(address.warnings[0].contains("sslaccept"));
    assert!(address.warnings[1].contains("schema"));
}
