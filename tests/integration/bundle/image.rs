//! Images made byte by byte, so that they can be wrong in any way.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

pub(super) fn digest(bytes: &[u8]) -> String {
    format!(
        "sha256:{}",
        data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
    )
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// A tar archive. Names and links are taken as they are.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer {
    bytes: Vec<u8>,
}

impl Layer {
    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub(super) fn entry(
        mut self,
        kind: EntryType,
        name: &str,
        link: &str,
        mode: u32,
        content: &[u8],
    ) -> Self {
        self.bytes.extend(entry(kind, name, link, mode, content));
        self
    }

    pub(super) fn file(self, name: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, name, "", 0o644, content.as_bytes())
    }

    pub(super) fn directory(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name, "", 0o755, b"")
    }

    pub(super) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, 0o777, b"")
    }

    pub(super) fn hardlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name, target, 0o644, b"")
    }

    /// A PAX extended header for the next entry.
    pub(super) fn pax(self, key: &str, value: &str) -> Self {
        let rest = format!(" {key}={value}\n");
        let mut length = rest.len() + 1;
        while length != rest.len() + length.to_string().len() {
            length += 1;
        }
        let record = format!("{length}{rest}");
        self.entry(EntryType::XHeader, "PaxHeaders/x", "", 0o644, record.as_bytes())
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.extend([0; 1024]);
        self.bytes
    }

    /// Without the blocks that end an archive.
    pub(super) fn unfinished(self) -> Vec<u8> {
        self.bytes
    }
}

pub(super) fn entry(kind: EntryType, name: &str, link: &str, mode: u32, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    let block = header.as_mut_bytes();
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_size(content.len() as u64);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// An image of one platform.
#[derive(Debug, Clone)]
pub(super) struct Image {
    /// As they are stored, with the digest of what they unpack to.
    pub(super) layers: Vec<(Vec<u8>, String)>,
    pub(super) config: Value,
}

impl Image {
    pub(super) fn new(layers: impl IntoIterator<Item = Layer>) -> Self {
        Self::plain(layers.into_iter().map(Layer::finish))
    }

    pub(super) fn plain(layers: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self::stored(layers, |bytes| bytes.to_vec())
    }

    pub(super) fn stored(layers: impl IntoIterator<Item = Vec<u8>>, how: fn(&[u8]) -> Vec<u8>) -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self {
            layers: layers
                .into_iter()
                .map(|layer| (how(&layer), digest(&layer)))
                .collect(),
            config: json!({ "os": "linux", "architecture": architecture, "config": {} }),
        }
    }

    pub(super) fn with(mut self, key: &str, value: Value) -> Self {
        self.config["config"][key] = value;
        self
    }

    /// Every blob of it, the manifest last.
    pub(super) fn blobs(&self) -> Vec<Vec<u8>> {
        let mut config = self.config.clone();
        let diff_ids: Vec<_> = self.layers.iter().map(|(_, diff_id)| diff_id.as_str()).collect();
        config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
        let config = config.to_string().into_bytes();
        let layers: Vec<_> = self.layers.iter().map(|(stored, _)| descriptor(stored)).collect();
        let manifest = json!({ "schemaVersion": 2, "config": descriptor(&config), "layers": layers });
        let mut blobs: Vec<_> = self.layers.iter().map(|(stored, _)| stored.clone()).collect();
        blobs.push(config);
        blobs.push(manifest.to_string().into_bytes());
        blobs
    }

    pub(super) fn manifest(&self) -> Vec<u8> {
        self.blobs().pop().unwrap()
    }

    /// As an OCI layout.
    pub(super) fn write(&self, directory: &Path) {
        write_layout(
            directory,
            &self.blobs(),
            &json!({ "manifests": [descriptor(&self.manifest())] }),
        );
    }
}

pub(super) fn write_layout(directory: &Path, blobs: &[Vec<u8>], index: &Value) {
    fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
    fs::write(directory.join("index.json"), index.to_string()).unwrap();
    for blob in blobs {
        let name = digest(blob).replace("sha256:", "blobs/sha256/");
        fs::write(directory.join(name), blob).unwrap();
    }
}

pub(super) fn descriptor(bytes: &[u8]) -> Value {
    json!({ "mediaType": "application/octet-stream", "digest": digest(bytes), "size": bytes.len() })
}
