//! Decompression of what strangers compressed.

use std::cell::Cell;
use std::io::{self, BufReader, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::account::Metered;

/// gzip cannot exceed about 1030:1, and only with bytes that are all the same; real layers stay below 20:1.
const RATIO_MAX: u64 = 200;
/// Small files full of zeros are no bombs: the ratio counts from here on, in bytes.
const RATIO_FROM: u64 = 256 << 20;
/// What a decoder may keep in memory; zstd's highest ordinary level needs 128 MiB.
const WINDOW_MAX: u64 = 128 << 20;

/// The message of the error for a bomb.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("it is a decompression bomb: more than {RATIO_MAX} times as large as its compressed form")]
pub(super) struct Bomb;

/// The plain bytes of `source`, whatever its compression: its first bytes tell, not what somebody says.
pub(super) fn decoder<'a>(source: Metered<impl Read + 'a>) -> io::Result<Box<dyn Read + 'a>> {
    let compressed = source.counter();
    let mut source = BufReader::with_capacity(64 * 1024, source);
    let mut magic = Vec::new();
    // `fill_buf` may give fewer bytes than there are, so they are read and put back in front.
    (&mut source).take(6).read_to_end(&mut magic)?;
    let unsupported = |name| {
        let text = format!("it is compressed with {name}, which images are not: use gzip, zstd or none");
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    };
    let all = BufReader::with_capacity(64 * 1024, io::Cursor::new(magic.clone()).chain(source));
    let decoder: Box<dyn Read> = match magic.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(all)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Box::new(Zstd {
            source: all,
            decoder: bounded(),
            inside: false,
        }),
        [b'B', b'Z', b'h', ..] => return unsupported("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => return unsupported("xz"),
        _ => return Ok(Box::new(all)),
    };
    Ok(Box::new(Ratio {
        decoder,
        compressed,
        plain: 0,
    }))
}

fn bounded() -> FrameDecoder {
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(WINDOW_MAX);
    decoder
}

struct Ratio<R> {
    decoder: R,
    compressed: Rc<Cell<u64>>,
    plain: u64,
}

impl<R: Read> Read for Ratio<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.decoder.read(buffer)?;
        self.plain += read as u64;
        let bomb = self.plain > RATIO_FROM && self.plain / RATIO_MAX > self.compressed.get();
        if bomb {
            Err(io::Error::other(Bomb))
        } else {
            Ok(read)
        }
    }
}

/// zstd files are frames one after the other, some of them to be skipped; the decoder knows one frame.
struct Zstd<R> {
    source: R,
    decoder: FrameDecoder,
    inside: bool,
}

impl<R: Read> Zstd<R> {
    /// Enters the next frame; `false` at the source's end.
    fn enter(&mut self) -> io::Result<bool> {
        loop {
            let mut magic = Vec::new();
            (&mut self.source).take(4).read_to_end(&mut magic)?;
            if magic.is_empty() {
                return Ok(false);
            }
            // The decoder reads the magic number itself.
            match self.decoder.init(io::Cursor::new(magic).chain(&mut self.source)) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    if io::copy(&mut (&mut self.source).take(length), &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(corrupt(error)),
            }
        }
    }
}

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.inside {
                if !self.enter()? {
                    return Ok(0);
                }
                self.inside = true;
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(corrupt)?;
            }
            let read = self.decoder.read(buffer)?;
            if read > 0 {
                return Ok(read);
            }
            self.inside = false;
            let (promised, is) = (
                self.decoder.get_checksum_from_data(),
                self.decoder.get_calculated_checksum(),
            );
            if promised.is_some_and(|promised| is.is_some_and(|is| is != promised)) {
                return Err(corrupt("a zstd checksum is wrong"));
            }
        }
    }
}

/// ruzstd's errors have no kind; a source that ended early is among them, too.
fn corrupt(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::super::account::Limit;
    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(content: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(content, ruzstd::encoding::CompressionLevel::Fastest)
    }

    fn plain(compressed: &[u8]) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        decoder(Metered::new(compressed, Limit::None))?.read_to_end(&mut all)?;
        Ok(all)
    }

    #[test]
    fn first_bytes_tell_the_compression_and_parts_one_after_the_other_are_one() {
        let text = b"some bytes, and more of them".repeat(100);
        let twice = [&text[..], &text[..]].concat();
        assert_eq!(plain(&text).unwrap(), text);
        assert_eq!(plain(b"").unwrap(), b"");
        assert_eq!(plain(b"ab").unwrap(), b"ab");
        assert_eq!(plain(&[gzip(&text), gzip(&text)].concat()).unwrap(), twice);
        let skipped = b"\x50\x2a\x4d\x18\x03\0\0\0xyz".to_vec();
        let frames = [
            skipped.clone(),
            zstd(&text),
            skipped.clone(),
            zstd(&text),
            skipped,
        ]
        .concat();
        assert_eq!(plain(&frames).unwrap(), twice);
    }

    #[test]
    fn what_is_cut_off_or_changed_is_an_error() {
        let content = b"content".repeat(99);
        // Each of the places where it may break off.
        let gzip_says = ["unexpected end of file", "incomplete deflate stream"];
        let zstd_says = [
            "Failed to parse block header: ",
            "Failed to parse/decode block body: Error while reading the block header",
            "Failed to read checksum: ",
        ];
        for (whole, says) in [(gzip(&content), &gzip_says[..]), (zstd(&content), &zstd_says[..])] {
            for cut in 7..whole.len() {
                let error = plain(&whole[..cut]).unwrap_err().to_string();
                assert!(
                    says.iter().any(|says| error.starts_with(says)),
                    "{cut} of {}: {error}",
                    whole.len()
                );
            }
        }
        let mut changed = gzip(&content);
        let at = changed.len() - 6;
        changed[at] ^= 1;
        assert_eq!(
            plain(&changed).unwrap_err().to_string(),
            "corrupt gzip stream does not have a matching checksum"
        );
        assert_eq!(
            plain(b"BZh9").unwrap_err().to_string(),
            "it is compressed with bzip2, which images are not: use gzip, zstd or none"
        );
    }

    #[test]
    fn a_bomb_is_noticed_by_its_ratio() {
        let mut compressed = Vec::new();
        let mut encoder = flate2::write::GzEncoder::new(&mut compressed, flate2::Compression::best());
        let zeros = vec![0; 1 << 20];
        for _ in 0..300 {
            encoder.write_all(&zeros).unwrap();
        }
        encoder.finish().unwrap();
        let mut decoder = decoder(Metered::new(&compressed[..], Limit::None)).unwrap();
        let error = io::copy(&mut decoder, &mut io::sink()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "it is a decompression bomb: more than 200 times as large as its compressed form"
        );
    }
}
