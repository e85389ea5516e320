//! `keytide demo` as a process: what it does when nobody reads, and when it is told to stop.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use tokio::time::Instant;

use crate::process::PATIENCE;

fn demo(line: &str, temporary: &tempfile::TempDir) -> Child {
    Command::new(env!("CARGO_BIN_EXE_keytide"))
        .env_clear()
        .env("TMPDIR", temporary.path())
        .args(["demo", "--listen", "127.0.0.1:0"])
        .args(line.split_whitespace())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

async fn ended(child: &mut Child) -> (ExitStatus, String) {
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            let _killed = child.kill();
            panic!("the demo does not end");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (status, said)
}

#[tokio::test]
async fn a_reader_that_leaves_ends_it_without_a_word() {
    let temporary = tempfile::tempdir().unwrap();
    let mut child = demo("--once --requests 20", &temporary);
    drop(child.stdout.take());
    let (status, said) = ended(&mut child).await;
    assert_eq!((status.code(), said.as_str()), (Some(0), ""));
    assert_eq!(temporary.path().read_dir().unwrap().count(), 0, "its folder is gone");
}

#[tokio::test]
async fn a_signal_ends_the_tour_and_takes_its_folder_along() {
    for signal in ["INT", "TERM"] {
        let temporary = tempfile::tempdir().unwrap();
        let mut child = demo("--requests 1000000", &temporary);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("1 client token made")));
        let kill = format!("kill -{signal} {}", child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        let (status, said) = ended(&mut child).await;
        assert_eq!(
            (status.code(), said.as_str()),
            (Some(1), "keytide: the tour was stopped before its end\n")
        );
        assert_eq!(temporary.path().read_dir().unwrap().count(), 0, "its folder is gone");
    }
}
