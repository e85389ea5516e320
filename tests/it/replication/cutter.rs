//! A way to the hub that can be cut: at once, or between a commit and its answer.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU16, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

pub struct Cutter {
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    target: AtomicU16,
    refuses: AtomicBool,
    /// What a stranger in the hub's place answers to everybody.
    stranger: Mutex<Option<String>>,
    /// The statement whose answer is to be lost.
    doomed: Mutex<Option<String>>,
    /// The statement of which the hub is to see only the beginning.
    halved: Mutex<Option<String>>,
    /// Counts cuts: every open connection ends at each.
    cuts: watch::Sender<u64>,
}

impl Cutter {
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            target: AtomicU16::new(target),
            refuses: AtomicBool::new(false),
            stranger: Mutex::default(),
            doomed: Mutex::default(),
            halved: Mutex::default(),
            cuts: watch::Sender::new(0),
        });
        let serving = shared.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(client));
            }
        });
        Self { port, shared }
    }

    fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Ends every connection; the next ones lead elsewhere.
    pub fn lead_to(&self, target: u16) {
        self.shared.target.store(target, Ordering::SeqCst);
        self.cut();
    }

    /// Ends every connection; from now on, or until told otherwise, a stranger answers with this.
    pub fn stranger(&self, answer: Option<&str>) {
        *self.shared.stranger.lock().unwrap() = answer.map(str::to_owned);
        self.cut();
    }

    /// Ends every connection, and lets none through until told otherwise.
    pub fn refuse(&self, refuse: bool) {
        self.shared.refuses.store(refuse, Ordering::SeqCst);
        self.cut();
    }

    /// The next request that contains `text` reaches the hub only in part.
    pub fn cut_next_request(&self, text: &str) {
        *self.shared.halved.lock().unwrap() = Some(text.to_owned());
    }

    /// Whether such a cut is still to come.
    pub fn is_armed(&self) -> bool {
        self.shared.halved.lock().unwrap().is_some() || self.shared.doomed.lock().unwrap().is_some()
    }

    /// The next request that contains `text` reaches the hub; its answer does not come back.
    pub fn cut_next_answer(&self, text: &str) {
        *self.shared.doomed.lock().unwrap() = Some(text.to_owned());
    }
}

impl Shared {
    async fn serve(self: Arc<Self>, client: TcpStream) {
        if self.refuses.load(Ordering::SeqCst) {
            return;
        }
        let mut cuts = self.cuts.subscribe();
        let stranger = self.stranger.lock().unwrap().clone();
        if let Some(answer) = stranger {
            return answer_as(client, &answer).await;
        }
        let target = self.target.load(Ordering::SeqCst);
        let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let doomed = Arc::new(AtomicBool::new(false));
        let (seen, this) = (doomed.clone(), self.clone());
        let requests = async move {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
                let text = String::from_utf8_lossy(&buffer[..length]);
                if this.doomed.lock().unwrap().take_if(|wanted| text.contains(wanted.as_str())).is_some() {
                    seen.store(true, Ordering::SeqCst);
                }
                let halved =
                    this.halved.lock().unwrap().take_if(|wanted| text.contains(wanted.as_str())).is_some();
                let through = if halved { length / 2 } else { length };
                if to_server.write_all(&buffer[..through]).await.is_err() || halved {
                    break;
                }
            }
        };
        let answers = async move {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
                // What answers the parsing comes before what answers the commit: only a row is the answer.
                if doomed.load(Ordering::SeqCst) && buffer[..length].contains(&b'D') {
                    break;
                }
                if to_client.write_all(&buffer[..length]).await.is_err() {
                    break;
                }
            }
        };
        tokio::select! {
            () = requests => {}
            () = answers => {}
            _ = cuts.changed() => {}
        }
    }
}

/// Says its text to whatever it is told, and hangs up.
async fn answer_as(mut client: TcpStream, answer: &str) {
    let mut asked = vec![0; 64 << 10];
    let Ok(1..) = client.read(&mut asked).await else { return };
    let _it_may_be_gone = client.write_all(answer.as_bytes()).await;
    let _it_may_be_gone = client.shutdown().await;
    // Read to the end: a reset would take the answer with it.
    while let Ok(1..) = client.read(&mut asked).await {}
}
