//! Where WebSocket frames end, against tungstenite's reading of their heads.

use std::io::Cursor;

use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, OpCode};

use crate::proxy::websocket::{Frames, close};

pub fn websocket(input: &[u8]) {
    let mut whole = Frames::default();
    whole.advance(input);
    let mut single = Frames::default();
    let mut boundaries = Vec::new();
    for (at, byte) in input.iter().enumerate() {
        single.advance(std::slice::from_ref(byte));
        if single.at_boundary() {
            boundaries.push(at + 1);
        }
    }
    assert_eq!(
        (whole.at_boundary(), whole.payload_left(), whole.is_closed()),
        (single.at_boundary(), single.payload_left(), single.is_closed()),
        "byte by byte it is another stream"
    );

    let (mut at, mut closed) = (0, false);
    let mut meant = Vec::new();
    loop {
        let mut rest = Cursor::new(&input[at..]);
        // Where tungstenite finds something that RFC 6455 reserves, herd only has to go on counting.
        let Ok(Some((header, length))) = FrameHeader::parse(&mut rest) else {
            break;
        };
        closed |= header.opcode == OpCode::Control(Control::Close);
        let head = usize::try_from(rest.position()).unwrap();
        let Some(end) = usize::try_from(length)
            .ok()
            .and_then(|l| (at + head).checked_add(l))
        else {
            break;
        };
        if end > input.len() {
            break;
        }
        at = end;
        meant.push(at);
    }
    assert!(boundaries.starts_with(&meant), "{boundaries:?} are not {meant:?}");
    assert!(!closed || single.is_closed(), "a Close was overlooked");

    if single.may_close() {
        let reason: String = input.iter().map(|b| char::from(b & 0x7f)).collect();
        let frame = close(1001, &reason);
        assert!(frame.len() <= 127);
        single.advance(&frame);
        assert!(single.at_boundary() && single.is_closed());
    }
}
