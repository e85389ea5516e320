//! A way to the hub that can be cut: at once, or between a commit and its answer.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
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
    target: u16,
    refuses: AtomicBool,
    /// The statement whose answer is to be lost.
    doomed: Mutex<Option<String>>,
    /// Counts cuts: every open connection ends at each.
    cuts: watch::Sender<u64>,
}

impl Cutter {
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            target,
            refuses: AtomicBool::new(false),
            doomed: Mutex::default(),
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

    /// Ends every connection, and lets none through until told otherwise.
    pub fn refuse(&self, refuse: bool) {
        self.shared.refuses.store(refuse, Ordering::SeqCst);
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
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
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.target)).await else { return };
        let mut cuts = self.cuts.subscribe();
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
                if to_server.write_all(&buffer[..length]).await.is_err() {
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
