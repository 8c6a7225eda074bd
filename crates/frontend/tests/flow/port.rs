//! A TCP port before a worker's own that the test can freeze: its connections stand, new ones are accepted, and nothing
//! goes through.

use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Dropping it closes everything.
pub(crate) struct Port {
    pub(crate) address: String,
    frozen: Arc<watch::Sender<bool>>,
    _accepts: tokio::task::JoinSet<()>,
}

impl Port {
    /// A port that leads to `target`.
    pub(crate) async fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let frozen = Arc::new(watch::Sender::new(false));
        let state = frozen.clone();
        let mut accepts = tokio::task::JoinSet::new();
        accepts.spawn(async move {
            let mut pipes = tokio::task::JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.unwrap();
                pipes.spawn(pipe(near, target.clone(), state.subscribe()));
            }
        });
        Self { address, frozen, _accepts: accepts }
    }

    pub(crate) fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }
}

async fn pipe(mut near: TcpStream, target: String, mut frozen: watch::Receiver<bool>) {
    let _ = frozen.wait_for(|frozen| !frozen).await;
    let Ok(mut far) = TcpStream::connect(target).await else { return };
    let (mut to, mut fro) = (vec![0; 4096], vec![0; 4096]);
    loop {
        let (read, forward) = tokio::select! {
            read = near.read(&mut to) => (read, true),
            read = far.read(&mut fro) => (read, false),
        };
        let Ok(read @ 1..) = read else { return };
        let _ = frozen.wait_for(|frozen| !frozen).await;
        let written = if forward { far.write_all(&to[..read]).await } else { near.write_all(&fro[..read]).await };
        if written.is_err() {
            return;
        }
    }
}
