//! A registry that does whatever a test wants, and remembers what it was asked.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::image::{Image, digest};

#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) authorization: Option<String>,
    pub(super) range: Option<String>,
    pub(super) body: String,
}

#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<String>,
    pub(super) body: Vec<u8>,
    /// What to announce instead of the body's length; `None`: the end of the connection is the body's.
    pub(super) length: Option<usize>,
}

impl Answer {
    pub(super) fn ok(body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self {
            status: 200,
            headers: Vec::new(),
            length: Some(body.len()),
            body,
        }
    }

    pub(super) fn status(status: u16, headers: &[String]) -> Self {
        Self {
            status,
            headers: headers.to_vec(),
            ..Self::ok("")
        }
    }
}

pub(super) struct FakeRegistry {
    pub(super) address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl FakeRegistry {
    pub(super) fn new(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&requests);
        // Ends with the test's process: it waits for connections and owns nothing else.
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                // A client that hangs up in the middle is not this side's failure.
                let _ = serve(connection.unwrap(), &kept, &answer);
            }
        });
        Self { address, requests }
    }

    /// Serves an image as `x:latest`, after `first` had its chance to answer instead.
    pub(super) fn of(
        image: &Image,
        first: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        let image = image.clone();
        Self::new(move |request| first(request).unwrap_or_else(|| part(&image, &request.target)))
    }

    pub(super) fn reference(&self) -> String {
        format!("{}/x:latest", self.address)
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// How many requests had this in their target.
    pub(super) fn count(&self, part: &str) -> usize {
        self.requests()
            .iter()
            .filter(|request| request.target.contains(part))
            .count()
    }
}

/// What a registry with only this image says.
pub(super) fn part(image: &Image, target: &str) -> Answer {
    if target == "/v2/x/manifests/latest" {
        return Answer::ok(image.manifest());
    }
    let wanted = target.rsplit('/').next().unwrap();
    match image.blobs().into_iter().find(|blob| digest(blob) == wanted) {
        Some(blob) => Answer::ok(blob),
        None => Answer::status(404, &[]),
    }
}

fn serve(
    connection: TcpStream,
    requests: &Mutex<Vec<Request>>,
    answer: &impl Fn(&Request) -> Answer,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(&connection);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let mut request = Request {
        method: words.next().unwrap_or_default().to_owned(),
        target: words.next().unwrap_or_default().to_owned(),
        authorization: None,
        range: None,
        body: String::new(),
    };
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => request.authorization = Some(value.to_owned()),
            "range" => request.range = Some(value.to_owned()),
            "content-length" => length = value.parse().unwrap(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    request.body = String::from_utf8(body).unwrap();
    let answer = answer(&request);
    requests.lock().unwrap().push(request);
    let mut head = format!("HTTP/1.1 {} x\r\nconnection: close\r\n", answer.status);
    for header in &answer.headers {
        head += &format!("{header}\r\n");
    }
    if let Some(length) = answer.length {
        head += &format!("content-length: {length}\r\n");
    }
    let mut connection = &connection;
    connection.write_all(format!("{head}\r\n").as_bytes())?;
    connection.write_all(&answer.body)
}
