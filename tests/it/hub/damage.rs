//! Answers that are too long or damaged on the way: an error at worst, and nothing is kept of them.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use keytide::replica::{transport::ErrorKind, wire::Function};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    hub, over_postgres, skipped,
    strangers::{HASTE, UNHURRIED, answering, failure, over_rest, server},
    url,
};
use crate::pg::Options;

/// Postgres's protocol as far as the login, and then a message of two gigabytes. Counts what it got rid of.
async fn flooding() -> (SocketAddr, Arc<AtomicUsize>) {
    let flooded = Arc::new(AtomicUsize::new(0));
    let counter = flooded.clone();
    let (address, _) = server(move |mut socket| {
        let counter = counter.clone();
        Box::pin(async move {
            let mut heard = vec![0; 65_536];
            let _ = socket.read(&mut heard).await;
            // Authentication is over; ready for a query.
            let _ = socket.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").await;
            let _ = socket.read(&mut heard).await;
            let _ = socket.write_all(b"D\x7f\xff\xff\xff").await;
            let filling = vec![b'x'; 1 << 20];
            while socket.write_all(&filling).await.is_ok() {
                counter.fetch_add(filling.len(), Ordering::SeqCst);
            }
        })
    })
    .await;
    (address, flooded)
}

#[tokio::test]
async fn an_answer_beyond_all_measure_is_not_kept() {
    const MOST: usize = 64 << 20;
    let (address, flooded) = flooding().await;
    let way = over_postgres(url(address.port(), "sslmode=disable"), Duration::from_secs(20));
    let error = failure(&*way).await;
    assert_eq!(
        (error.kind, &*error.detail),
        (ErrorKind::TooLarge, "the answer is larger than any of a hub's")
    );
    let read = way.traffic().received as usize;
    assert!((MOST..MOST + (8 << 20)).contains(&read), "{read} bytes were read");
    assert!(flooded.load(Ordering::SeqCst) >= MOST);

    // Nothing says how long it is.
    let endless = String::from("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n") + &" ".repeat(MOST + 1);
    let (address, _) = answering(endless).await;
    let error = failure(&*over_rest(address, Duration::from_secs(20))).await;
    assert_eq!(
        (error.kind, &*error.detail),
        (ErrorKind::TooLarge, "the answer is larger than any of a hub's")
    );
}

/// Carries bytes to a hub and back, and keeps what the hub says: up to the login's end, and after it.
async fn recorded(to: SocketAddr) -> (SocketAddr, Arc<Mutex<[Vec<u8>; 2]>>) {
    let said = Arc::<Mutex<[Vec<u8>; 2]>>::default();
    let kept = said.clone();
    let (address, _) = server(move |mut caller| {
        let kept = kept.clone();
        Box::pin(async move {
            let mut hub = TcpStream::connect(to).await.unwrap();
            let (mut forth, mut back, mut asked) = (vec![0; 65_536], vec![0; 65_536], 0);
            loop {
                tokio::select! {
                    read = caller.read(&mut forth) => {
                        let Ok(read @ 1..) = read else { return };
                        asked += 1;
                        hub.write_all(&forth[..read]).await.unwrap();
                    }
                    read = hub.read(&mut back) => {
                        let Ok(read @ 1..) = read else { return };
                        kept.lock().unwrap()[usize::from(asked > 1)].extend_from_slice(&back[..read]);
                        caller.write_all(&back[..read]).await.unwrap();
                    }
                }
            }
        })
    })
    .await;
    (address, said)
}

/// A true answer of Postgres's with some bytes that are not: an error at once, or what such an answer may say.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_answer_of_postgres_is_an_error_at_worst() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let cluster = hub(Options::default()).await;
    let (through, said) = recorded(([127, 0, 0, 1], cluster.port).into()).await;
    let way = over_postgres(url(through.port(), "sslmode=disable"), UNHURRIED);
    way.call(Function::Hello, "{}").await.unwrap();
    let [login, answer] = said.lock().unwrap().clone();
    let mut rng = fastrand::Rng::with_seed(17);
    let mut errors = 0;
    for round in 0..400 {
        let mut bytes = answer.clone();
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(..bytes.len());
            match rng.u8(..4) {
                0 => bytes.truncate(at + 1),
                1 => bytes.insert(at, rng.u8(..)),
                2 => bytes[at] = *rng.choice(&[0, 1, 0x7f, 0x80, 0xff][..]).unwrap(),
                _ => bytes[at] = rng.u8(..),
            }
        }
        let said = Arc::new((login.clone(), bytes));
        let (address, _) = server(move |mut caller| {
            let said = said.clone();
            Box::pin(async move {
                let mut heard = vec![0; 65_536];
                let _ = caller.read(&mut heard).await;
                let _ = caller.write_all(&said.0).await;
                let _ = caller.read(&mut heard).await;
                let _ = caller.write_all(&said.1).await;
                let _ = caller.shutdown().await;
                while caller.read(&mut heard).await.is_ok_and(|read| read > 0) {}
            })
        })
        .await;
        let began = Instant::now();
        let way = over_postgres(url(address.port(), "sslmode=disable"), HASTE);
        if let Err(error) = way.call(Function::Hello, "{}").await {
            errors += 1;
            let told = error.to_string();
            assert!(told.len() < 700 && !told.contains(['\n', '\0', '\u{1b}']), "{round}: {told:?}");
        }
        assert!(began.elapsed() < HASTE, "{round}: it waits for what does not come");
    }
    assert!(errors > 100, "{errors}");
}
