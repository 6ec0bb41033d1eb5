//! A client in a network namespace of its own, whose link can go down: then nothing comes from it any more, not even
//! a refusal.

use std::fs::File;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::channel;

use nix::sched::{CloneFlags, setns, unshare};

use crate::running::{spawn, stderr};

/// The link's name in there.
const INSIDE: &str = "far";

#[derive(Debug)]
pub(crate) struct Far {
    namespace: File,
    /// The link's name out here.
    near: String,
    net: u8,
}

impl Far {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let net = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(net < 64, "a /30 for each is all there is room for");
        let near = format!("far{}n{net}", std::process::id());
        let (send, receive) = channel();
        let (over, wait) = channel::<()>();
        let made = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            // SAFETY: takes nothing, and cannot fail.
            send.send(unsafe { libc::gettid() }).unwrap();
            // The descriptor keeps it from here on.
            let _ = wait.recv();
        });
        let thread = receive.recv().unwrap();
        let namespace = File::open(format!("/proc/self/task/{thread}/ns/net")).unwrap();
        let this = Self { namespace, near, net };
        let near = this.near.as_str();
        ip(&format!(
            "link add {near} type veth peer name {INSIDE} netns {thread}"
        ));
        drop(over);
        made.join().unwrap();
        ip(&format!("address add {}/30 dev {near}", this.near_address()));
        ip(&format!("link set {near} up"));
        this.inside(|| {
            ip(&format!("address add {}/30 dev {INSIDE}", this.address(2)));
            ip(&format!("link set {INSIDE} up"));
        });
        this
    }

    /// Where it reaches this side.
    pub(crate) fn near_address(&self) -> Ipv4Addr {
        self.address(1)
    }

    /// Of the networks that are for tests of network devices (RFC 2544).
    fn address(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, std::process::id() as u8, self.net * 4 + host)
    }

    /// Does that as the client would; paths and processes are the same there.
    pub(crate) fn inside<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let done = scope.spawn(|| {
                setns(&self.namespace, CloneFlags::CLONE_NEWNET).unwrap();
                what()
            });
            done.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub(crate) fn vanish(&self) {
        self.inside(|| ip(&format!("link set {INSIDE} down")));
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "delete", &self.near]).status();
    }
}

fn ip(arguments: &str) {
    let mut command = Command::new("ip");
    command.args(arguments.split(' ')).stderr(Stdio::piped());
    let output = spawn(&mut command).wait_with_output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", stderr(&output));
}
