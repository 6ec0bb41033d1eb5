//! Bodies larger than herd may hold in memory.

use std::time::Duration;

use super::*;

const HUNDRED_MIB: u64 = 100 << 20;
/// KiB that herd may ever have used: far less than a body.
const MEMORY: u64 = 80 << 10;

/// The most memory that herd has had resident, KiB.
fn peak(herd: &Herd) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", herd.running.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn an_upload_waits_for_its_worker_and_arrives_whole() {
    let herd = Herd::one("", "");
    herd.get("a", "/").good();
    let mut client = herd.client();
    client.send(&format!(
        "POST /sink HTTP/1.1\r\nHost: localhost\r\nX-Session-ID: a\r\nContent-Length: {HUNDRED_MIB}\r\n\r\n"
    ));
    let stream = client.0.get_mut();
    // Nobody reads: at some time nothing more is taken. A slow machine can only make that come sooner.
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let block = vec![b'x'; 1 << 20];
    let mut written = 0;
    while written < HUNDRED_MIB {
        match stream.write(&block[..block.len().min((HUNDRED_MIB - written) as usize)]) {
            Ok(count) => written += count as u64,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) => panic!("after {written} bytes: {e}"),
        }
    }
    assert!(
        written < HUNDRED_MIB,
        "all was taken while the worker read nothing"
    );
    herd.get("a", "/release").good();
    let stream = client.0.get_mut();
    stream.set_write_timeout(Some(CAP)).unwrap();
    while written < HUNDRED_MIB {
        let most = block.len().min((HUNDRED_MIB - written) as usize);
        written += stream.write(&block[..most]).unwrap() as u64;
    }
    assert_eq!(client.answer().good()["received"], HUNDRED_MIB);
    assert!(peak(&herd) < MEMORY, "{} KiB", peak(&herd));
}

#[test]
fn a_download_waits_for_its_client_and_arrives_whole() {
    let herd = Herd::one("", "");
    let mut client = herd.client();
    client.send(&get("a", "/source", ""));
    let (status, fields) = client.head();
    assert_eq!((status, fields["content-length"].parse()), (200, Ok(HUNDRED_MIB)));
    let sent = poll("the worker cannot send more", || {
        let progress = herd.get("a", "/progress").good();
        match &progress["stalled"] {
            Value::Bool(true) => Ok(progress["sent"].as_u64().unwrap()),
            _ => Err(progress.to_string()),
        }
    });
    assert!(sent < HUNDRED_MIB, "all was taken while the client read nothing");
    let copied = io::copy(&mut client.0.by_ref().take(HUNDRED_MIB), &mut io::sink()).unwrap();
    assert_eq!(copied, HUNDRED_MIB);
    assert!(peak(&herd) < MEMORY, "{} KiB", peak(&herd));
}
