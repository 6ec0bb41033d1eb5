//! Follows the frames of a WebSocket stream (RFC 6455 section 5.2) from the server's side, to know where a
//! frame of herd's own may stand. Payloads are skipped, never looked at.

/// Where in the stream of frames we are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Frames {
    head: [u8; 14],
    have: usize,
    payload: u64,
    closed: bool,
}

impl Frames {
    pub(crate) fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let here = usize::try_from(self.payload)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                self.payload -= here as u64;
                bytes = &bytes[here..];
                continue;
            }
            self.head[self.have] = bytes[0];
            self.have += 1;
            bytes = &bytes[1..];
            if self.have >= 2 && self.have == self.head_len() {
                self.payload = self.payload_len();
                self.closed |= self.head[0] & 0x0f == 8;
                self.have = 0;
            }
        }
    }

    /// Bytes of the present frame's payload that are still to come.
    pub(crate) fn payload_left(&self) -> u64 {
        self.payload
    }

    /// Advances by bytes that nobody has seen: at most what is left of the payload.
    pub(crate) fn skip(&mut self, payload: usize) {
        debug_assert!(payload as u64 <= self.payload, "skipped past the frame");
        self.payload = self.payload.saturating_sub(payload as u64);
    }

    /// Between two frames, and the peer has not said goodbye: a Close may be sent.
    pub(crate) fn may_close(&self) -> bool {
        self.at_boundary() && !self.closed
    }

    pub(crate) fn at_boundary(&self) -> bool {
        self.have == 0 && self.payload == 0
    }

    /// A Close frame has passed.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    fn head_len(&self) -> usize {
        let mask = if self.head[1] & 0x80 != 0 { 4 } else { 0 };
        mask + match self.head[1] & 0x7f {
            127 => 10,
            126 => 4,
            _ => 2,
        }
    }

    fn payload_len(&self) -> u64 {
        let h = &self.head;
        match h[1] & 0x7f {
            127 => u64::from_be_bytes([h[2], h[3], h[4], h[5], h[6], h[7], h[8], h[9]]),
            126 => u64::from(u16::from_be_bytes([h[2], h[3]])),
            short => u64::from(short),
        }
    }
}

/// An unmasked Close frame, as a server sends it.
pub(crate) fn close(code: u16, reason: &str) -> Vec<u8> {
    // A control frame's payload is at most 125 bytes; every reason herd gives is ASCII and short.
    let reason = &reason.as_bytes()[..reason.len().min(123)];
    let mut frame = vec![0x88, 2 + reason.len() as u8];
    frame.extend_from_slice(&code.to_be_bytes());
    frame.extend_from_slice(reason);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Vec<(Vec<u8>, &'static str)> {
        let mut long = vec![0x82, 127];
        long.extend_from_slice(&70_000u64.to_be_bytes());
        long.extend(std::iter::repeat_n(0x88, 70_000));
        let mut middle = vec![0x02, 126, 1, 0];
        middle.extend([0; 256]);
        let masked = vec![0x81, 0x82, 1, 2, 3, 4, 9, 9];
        vec![
            (vec![0x81, 0], "empty"),
            (vec![0x81, 2, b'h', b'i'], "short"),
            (middle, "middle"),
            (long, "long"),
            (masked, "masked"),
        ]
    }

    #[test]
    fn a_boundary_is_seen_after_each_frame_and_nowhere_else() {
        let mut frames = Frames::default();
        for (frame, name) in stream() {
            for byte in &frame[..frame.len() - 1] {
                frames.advance(std::slice::from_ref(byte));
                assert!(!frames.at_boundary(), "inside the {name} frame");
            }
            frames.advance(&frame[frame.len() - 1..]);
            assert!(frames.may_close(), "after the {name} frame");
        }
        let whole: Vec<u8> = stream().into_iter().flat_map(|(f, _)| f).collect();
        let mut frames = Frames::default();
        frames.advance(&whole);
        assert!(frames.may_close());
    }

    #[test]
    fn after_a_close_frame_no_other_may_be_sent() {
        let mut frames = Frames::default();
        frames.advance(&close(1000, "bye"));
        assert!(frames.at_boundary() && frames.is_closed() && !frames.may_close());
    }
}
