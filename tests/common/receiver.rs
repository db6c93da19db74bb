//! A receiver of webhooks: what comes is kept, and answered as the test says.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

pub const TAKEN: &str = "HTTP/1.1 204 No Content\r\n\r\n";

/// An answer without a body.
pub fn status(code: u16) -> String {
    format!("HTTP/1.1 {code} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
}

/// One message as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub target: String,
    /// Names in lower case.
    pub fields: BTreeMap<String, String>,
    pub body: String,
}

impl Message {
    pub fn id(&self) -> &str {
        &self.fields["webhook-id"]
    }

    pub fn event(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

/// Listens until the test's process ends.
pub struct Receiver {
    pub address: SocketAddr,
    scheme: &'static str,
    messages: Arc<Mutex<Vec<Message>>>,
    connections: Arc<AtomicUsize>,
}

impl Receiver {
    /// Answers by the message's number from 0. An empty answer is none: the connection is kept, and silent.
    pub fn start(answer: impl Fn(usize, &Message) -> String + Send + Sync + 'static) -> Self {
        Self::listen("127.0.0.1", None, answer)
    }

    /// As [`Self::start`], over TLS.
    pub fn secure(
        tls: ServerConfig,
        answer: impl Fn(usize, &Message) -> String + Send + Sync + 'static,
    ) -> Self {
        Self::listen("127.0.0.1", Some(Arc::new(tls)), answer)
    }

    fn listen(
        host: &str,
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(usize, &Message) -> String + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((host, 0)).expect("a port");
        let receiver = Self {
            address: listener.local_addr().expect("an address"),
            scheme: if tls.is_some() { "https" } else { "http" },
            messages: Arc::default(),
            connections: Arc::default(),
        };
        let (messages, connections) = (Arc::clone(&receiver.messages), Arc::clone(&receiver.connections));
        let answer = Arc::new(answer);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                connections.fetch_add(1, Ordering::SeqCst);
                let (messages, answer, tls) = (Arc::clone(&messages), Arc::clone(&answer), tls.clone());
                thread::spawn(move || match tls {
                    None => serve(stream, &messages, &*answer),
                    Some(tls) => {
                        let connection = ServerConnection::new(tls).expect("a connection");
                        serve(StreamOwned::new(connection, stream), &messages, &*answer);
                    }
                });
            }
        });
        receiver
    }

    /// A place here, by a host of the caller's.
    pub fn at(&self, host: &str) -> String {
        format!("{}://{host}:{}/hook", self.scheme, self.address.port())
    }

    pub fn url(&self) -> String {
        self.at("127.0.0.1")
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn messages(&self) -> Vec<Message> {
        self.messages.lock().expect("no thread has failed").clone()
    }

    /// Waits until so many messages have come, and gives all.
    pub async fn until(&self, count: usize) -> Vec<Message> {
        self.until_that(&format!("{count} messages"), |messages| messages.len() >= count).await
    }

    /// Waits until what has come fulfils a condition.
    pub async fn until_that(&self, what: &str, is_so: impl Fn(&[Message]) -> bool) -> Vec<Message> {
        for _ in 0..4_000 {
            let messages = self.messages();
            if is_so(&messages) {
                return messages;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it did not come to {what}: {:#?}", self.messages());
    }
}

fn serve(
    mut stream: impl Read + Write,
    messages: &Mutex<Vec<Message>>,
    answer: &(impl Fn(usize, &Message) -> String + ?Sized),
) {
    // The sender may be killed at any time.
    let Some(message) = read(&mut stream) else { return };
    let text = {
        let mut messages = messages.lock().expect("no thread has failed");
        messages.push(message.clone());
        answer(messages.len() - 1, &message)
    };
    let _gone = stream.write_all(text.as_bytes()).and_then(|()| stream.flush());
    if text.is_empty() {
        let _end = stream.read(&mut [0]);
    }
}

fn read(stream: &mut impl Read) -> Option<Message> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let target = lines.next()?.split(' ').nth(1)?.to_owned();
    let fields: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut body = vec![0; fields.get("content-length")?.parse().ok()?];
    stream.read_exact(&mut body).ok()?;
    Some(Message { target, fields, body: String::from_utf8(body).ok()? })
}
