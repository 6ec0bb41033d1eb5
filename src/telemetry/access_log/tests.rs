use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::*;

fn log(path: &Path) -> (AccessLog, Counter) {
    let dropped = Counter::default();
    let target = Target::open(&LogTarget::File(path.to_owned())).unwrap();
    let log = AccessLog::new(dropped.clone());
    log.turn_to(Some(target)).unwrap();
    (log, dropped)
}

/// Until it is so.
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !is() {
        assert!(Instant::now() < patience, "{what} does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn lines_are_added_to_the_file_and_others_may_not_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    for line in ["one\n", "two\n"] {
        let (log, _) = log(&path);
        log.put(line.as_bytes());
        log.flush();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o137, 0, "{mode:o}");
}

#[test]
fn a_file_that_was_renamed_is_begun_anew_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (path, old) = (dir.path().join("log"), dir.path().join("log.1"));
    let (log, dropped) = log(&path);
    log.put(b"one\n");
    log.flush();
    std::fs::rename(&path, &old).unwrap();
    log.reopen();
    until("the new file", || path.exists());
    log.put(b"two\n");
    log.flush();
    assert_eq!(std::fs::read_to_string(&old).unwrap(), "one\n");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
    assert_eq!(dropped.get(), 0);
}

#[test]
fn where_the_name_cannot_be_had_again_the_open_file_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (inner, moved) = (dir.path().join("a"), dir.path().join("b"));
    std::fs::create_dir(&inner).unwrap();
    let (log, dropped) = log(&inner.join("log"));
    std::fs::rename(&inner, &moved).unwrap();
    log.reopen();
    log.put(b"one\n");
    until("the line", || {
        std::fs::read_to_string(moved.join("log")).unwrap() == "one\n"
    });
    assert_eq!(dropped.get(), 0);
}

#[test]
fn lines_that_a_full_disk_does_not_take_are_counted() {
    let (log, dropped) = log(Path::new("/dev/full"));
    log.put(b"one\ntwo\n");
    until("the count", || dropped.get() == 2);
}

#[test]
fn a_fifo_that_nobody_reads_holds_nobody_up_and_is_left_for_another_file() {
    let dir = tempfile::tempdir().unwrap();
    let (fifo, file) = (dir.path().join("fifo"), dir.path().join("file"));
    mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
    let (log, dropped) = log(&fifo);
    let line = [[b'x'; 1023].as_slice(), b"\n"].concat();
    for _ in 0..4096 {
        log.put(&line);
    }
    assert!(dropped.get() > 0);
    log.turn_to(Some(Target::open(&LogTarget::File(file.clone())).unwrap()))
        .unwrap();
    // Those that were on their way are lost, those that waited are not.
    until("room", || {
        let before = dropped.get();
        log.put(b"last\n");
        dropped.get() == before
    });
    until("the last line", || {
        std::fs::read_to_string(&file)
            .unwrap_or_default()
            .ends_with("last\n")
    });
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.lines().all(|line| line.len() == 1023 || line == "last"));
}

#[test]
fn a_fifo_outlives_its_reader() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
    let (log, _) = log(&fifo);
    for line in [b"one\n", b"two\n"] {
        let mut reader = File::open(&fifo).unwrap();
        log.put(line);
        let mut read = [0; 4];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(&read, line);
    }
}

#[test]
fn what_cannot_be_opened_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().to_owned(), dir.path().join("not/there")] {
        assert!(Target::open(&LogTarget::File(path)).is_err());
    }
}
