//! Images made in temporary folders: good ones, damaged ones and hostile ones.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, symlink},
    path::{Path, PathBuf},
};

use serde_json::json;
use tempfile::TempDir;

use super::{
    import::import,
    store::{Digest, ImageStore},
    *,
};
use crate::limits::IMAGE_KEEP_MS;

/// One entry of a layer.
pub(crate) enum Entry<'a> {
    File(&'a str, &'a str),
    Folder(&'a str),
    Symlink(&'a str, &'a str),
    Hard(&'a str, &'a str),
    Device(&'a str),
}

/// A tar with these entries, names written as they are, hostile ones too.
pub(crate) fn tar_of(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        let (name, kind, content) = match entry {
            Entry::File(name, content) => (*name, tar::EntryType::Regular, *content),
            Entry::Folder(name) => (*name, tar::EntryType::Directory, ""),
            Entry::Symlink(name, target) => {
                header.as_gnu_mut().expect("gnu").linkname[..target.len()].copy_from_slice(target.as_bytes());
                (*name, tar::EntryType::Symlink, "")
            }
            Entry::Hard(name, target) => {
                header.as_gnu_mut().expect("gnu").linkname[..target.len()].copy_from_slice(target.as_bytes());
                (*name, tar::EntryType::Link, "")
            }
            Entry::Device(name) => (*name, tar::EntryType::Char, ""),
        };
        header.as_gnu_mut().expect("gnu").name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(if kind == tar::EntryType::Directory { 0o755 } else { 0o4755 });
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_000_000);
        header.set_cksum();
        builder.append(&header, content.as_bytes()).expect("appended");
    }
    builder.into_inner().expect("a tar")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("compressed");
    encoder.finish().expect("compressed")
}

pub(crate) fn store() -> (TempDir, ImageStore) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = ImageStore::open(folder.path().join("images")).expect("a store");
    (folder, store)
}

/// An OCI layout with one image of these layers; returns the manifest's digest.
pub(crate) fn layout(folder: &Path, layers: &[Vec<u8>]) -> Digest {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("made");
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).expect("written");
        json!({"mediaType": "x", "digest": digest.to_string(), "size": bytes.len()})
    };
    let config = put(json!({"config": {"Env": ["A=1"], "Cmd": ["/run"], "User": "5"}}).to_string().as_bytes());
    let layers: Vec<_> = layers.iter().map(|layer| put(layer)).collect();
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers}).to_string();
    put(manifest.as_bytes());
    let digest = Digest::of(manifest.as_bytes());
    let index = json!({"schemaVersion": 2, "manifests": [{"digest": digest.to_string(), "size": manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": "one"}}]});
    fs::write(folder.join("index.json"), index.to_string()).expect("written");
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("written");
    digest
}

/// Imports and unpacks an image of these layers.
fn unpack(layers: &[Vec<u8>]) -> (TempDir, Result<PathBuf, ImageError>) {
    let (folder, store) = store();
    let given = folder.path().join("layout");
    let digest = layout(&given, layers);
    import(&store, &given, None, None).expect("imported");
    let root = store.unpacked(digest);
    (folder, root)
}

#[test]
fn a_layout_is_imported_and_unpacked_layer_over_layer() {
    let (folder, store) = store();
    let given = folder.path().join("layout");
    let layers = [
        tar_of(&[
            Entry::Folder("etc"),
            Entry::File("etc/a", "one"),
            Entry::File("etc/b", "gone"),
            Entry::Folder("opaque"),
            Entry::File("opaque/old", "gone"),
            Entry::Symlink("lib", "usr/lib"),
            Entry::Folder("usr/lib"),
        ]),
        gzip(&tar_of(&[
            Entry::File("etc/a", "two"),
            Entry::File("etc/.wh.b", ""),
            Entry::File("opaque/.wh..wh..opq", ""),
            Entry::File("opaque/new", "here"),
            Entry::File("lib/x", "through the link"),
            Entry::Hard("etc/c", "etc/a"),
            Entry::Device("dev-null"),
        ])),
        zstd::encode_all(tar_of(&[Entry::File("z", "zstd")]).as_slice(), 1).expect("compressed"),
    ];
    let expected = layout(&given, &layers);
    let digest = import(&store, &given, Some("one"), Some(expected)).expect("imported");
    assert_eq!(digest, expected);
    let manifest = store.manifest(digest).expect("a manifest");
    let config = store.image_config(&manifest).expect("a configuration");
    assert_eq!(config.cmd, Some(vec!["/run".to_owned()]));
    let root = store.unpacked(digest).expect("unpacked");
    let read = |name: &str| fs::read_to_string(root.join(name)).ok();
    assert_eq!(read("etc/a").as_deref(), Some("two"));
    assert_eq!(read("etc/b"), None);
    assert_eq!(read("opaque/old"), None);
    assert_eq!(read("opaque/new").as_deref(), Some("here"));
    assert_eq!(read("usr/lib/x").as_deref(), Some("through the link"));
    assert_eq!(read("etc/c").as_deref(), Some("two"));
    assert_eq!(read("z").as_deref(), Some("zstd"));
    assert!(!root.join("dev-null").exists());
    let data = fs::metadata(root.join("etc/a")).expect("a file");
    assert_eq!((data.uid(), data.gid(), data.mode() & 0o7777, data.mtime()), (7, 8, 0o4755, 1_000_000));
    // A second time nothing is done.
    assert_eq!(store.unpacked(digest).expect("unpacked"), root);
}

#[test]
fn wrong_digests_and_names_are_refused_in_words() {
    let (folder, store) = store();
    let given = folder.path().join("layout");
    let digest = layout(&given, &[tar_of(&[Entry::File("a", "b")])]);
    let error = import(&store, &given, Some("two"), None).expect_err("no such tag").to_string();
    assert!(error.contains("no image named 'two'") && error.contains("one"), "{error}");
    let error = import(&store, &given, None, Some(Digest::of(b"x"))).expect_err("another digest").to_string();
    assert!(error.contains("should have digest") && error.contains(&digest.to_string()), "{error}");
    // A blob that was changed after the layout was made.
    let manifest = store.manifest(digest).expect("it was imported before its digest was compared");
    let (_other_folder, fresh) = self::store();
    let layer = manifest.layers[0].digest.strip_prefix("sha256:").expect("sha256").to_owned();
    let path = given.join("blobs/sha256").join(layer);
    let mut bytes = fs::read(&path).expect("a layer");
    bytes[600] ^= 1;
    fs::write(&path, bytes).expect("written");
    let error = import(&fresh, &given, None, None).expect_err("a changed layer");
    assert!(matches!(error, ImageError::Mismatch { .. }), "{error}");
    assert_eq!(fresh.size(digest), None, "an image with a bad layer must not count as imported");
    let error = import(&fresh, &folder.path().join("nothing"), None, None).expect_err("nothing there").to_string();
    assert!(error.contains("cannot open"), "{error}");
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).expect("made");
    let error = import(&fresh, &empty, None, None).expect_err("no layout").to_string();
    assert!(error.contains("not an OCI layout folder"), "{error}");
}

#[test]
fn hostile_layers_never_leave_the_image() {
    for entries in [
        vec![Entry::File("../escaped", "x")],
        vec![Entry::File("a/../../escaped", "x")],
        vec![Entry::Folder("d"), Entry::File("d/.wh...", "")],
        vec![Entry::Hard("d", "missing")],
    ] {
        let (folder, root) = unpack(&[tar_of(&entries)]);
        let error = root.expect_err("it must be refused");
        assert!(matches!(error, ImageError::Layer { .. }), "{error}");
        assert!(!folder.path().join("escaped").exists() && !folder.path().join("images/escaped").exists());
    }
    // These are not errors, but end up inside.
    let outside = tempfile::tempdir().expect("a folder");
    let target = outside.path().to_str().expect("text").to_owned();
    let (_folder, root) = unpack(&[
        tar_of(&[Entry::Symlink("out", &target), Entry::Symlink("up", "../../../.."), Entry::File("/abs", "x")]),
        tar_of(&[
            Entry::File("out/file", "inside"),
            Entry::File("up/file", "inside"),
            Entry::File("out", "a file now"),
        ]),
    ]);
    let root = root.expect("unpacked");
    assert_eq!(fs::read_dir(outside.path()).expect("listed").count(), 0, "something was written outside");
    assert_eq!(fs::read_to_string(root.join("file")).ok().as_deref(), Some("inside"));
    assert_eq!(fs::read_to_string(root.join(&target[1..]).join("file")).ok().as_deref(), Some("inside"));
    assert_eq!(fs::read_to_string(root.join("out")).ok().as_deref(), Some("a file now"));
    assert!(root.join("abs").exists());
    // Hard links to links do not lead out either: the link itself is linked.
    let (_folder, root) = unpack(&[tar_of(&[Entry::Symlink("l", "/etc/passwd"), Entry::Hard("h", "l")])]);
    assert!(fs::symlink_metadata(root.expect("unpacked").join("h")).expect("a link").is_symlink());
}

#[test]
fn links_that_lead_in_a_circle_are_refused() {
    let (_folder, root) =
        unpack(&[tar_of(&[Entry::Symlink("a", "b"), Entry::Symlink("b", "a"), Entry::File("a/x", "")])]);
    let error = root.expect_err("it must be refused").to_string();
    assert!(error.contains("too many links"), "{error}");
}

fn append(builder: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, name, bytes).expect("appended");
}

#[test]
fn docker_archives_of_both_forms_are_imported() {
    let (folder, store) = store();
    let layer = tar_of(&[Entry::File("a", "from docker")]);
    let config = json!({"config": {"Entrypoint": ["/a"]}}).to_string();
    // The old form, with a link between members, and compressed as a whole.
    let mut builder = tar::Builder::new(Vec::new());
    append(&mut builder, "abc.json", config.as_bytes());
    append(&mut builder, "l1/layer.tar", &layer);
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "l2/layer.tar", "../l1/layer.tar").expect("appended");
    let list = json!([{"Config": "abc.json", "RepoTags": ["app:1"], "Layers": ["l1/layer.tar", "l2/layer.tar"]}]);
    append(&mut builder, "manifest.json", list.to_string().as_bytes());
    let old = folder.path().join("old.tar.gz");
    fs::write(&old, gzip(&builder.into_inner().expect("a tar"))).expect("written");
    let digest = import(&store, &old, Some("app:1"), None).expect("imported");
    assert_eq!(import(&store, &old, None, None).expect("again"), digest, "the digest must not depend on chance");
    let manifest = store.manifest(digest).expect("a manifest");
    assert_eq!(manifest.layers.len(), 2);
    let root = store.unpacked(digest).expect("unpacked");
    assert_eq!(fs::read_to_string(root.join("a")).expect("read"), "from docker");
    assert_eq!(store.image_config(&manifest).expect("read").entrypoint, Some(vec!["/a".to_owned()]));
    // The new form: an OCI layout in a tar.
    let given = folder.path().join("layout");
    let expected = layout(&given, &[layer]);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_dir_all(".", &given).expect("appended");
    let new = folder.path().join("new.tar");
    fs::write(&new, builder.into_inner().expect("a tar")).expect("written");
    assert_eq!(import(&store, &new, None, None).expect("imported"), expected);
    assert_eq!(fs::read_dir(store.folder("tmp")).expect("listed").count(), 0, "temporary files were left behind");
}

#[test]
fn archives_that_lead_out_are_refused() {
    let (folder, store) = store();
    let evil = folder.path().join("evil.tar");
    fs::write(&evil, tar_of(&[Entry::File("../evil", "x")])).expect("written");
    let error = import(&store, &evil, None, None).expect_err("it leads out").to_string();
    assert!(error.contains("leads out of it"), "{error}");
    let junk = folder.path().join("junk.tar");
    fs::write(&junk, [7; 2048]).expect("written");
    let error = import(&store, &junk, None, None).expect_err("no archive").to_string();
    assert!(error.contains("no tar archive"), "{error}");
    // A layout whose blob is a FIFO or a link to a device must not hang or be read.
    let given = folder.path().join("layout");
    let digest = layout(&given, &[]);
    let blob = given.join("blobs/sha256").join(digest.hex());
    fs::remove_file(&blob).expect("removed");
    symlink("/dev/zero", &blob).expect("linked");
    let error = import(&store, &given, None, None).expect_err("a device").to_string();
    assert!(error.contains("not a regular file"), "{error}");
}

#[test]
fn blobs_in_pieces_are_verified_and_go_on_after_a_break() {
    let (_folder, store) = store();
    let content = b"in two pieces".to_vec();
    let digest = Digest::of(&content);
    let mut partial = store.partial(digest).expect("begun");
    partial.write(&content[..5]).expect("written");
    drop(partial);
    let mut partial = store.partial(digest).expect("goes on");
    assert_eq!(partial.length(), 5);
    partial.write(&content[5..]).expect("written");
    partial.finish("a blob", Some(content.len() as u64)).expect("complete");
    assert_eq!(store.read(digest).expect("stored"), content);
    let other = Digest::of(b"something else");
    let mut partial = store.partial(other).expect("begun");
    partial.write(&content).expect("written");
    assert!(matches!(partial.finish("a blob", None), Err(ImageError::Mismatch { .. })));
    assert_eq!(store.size(other), None);
    assert_eq!(store.partial(other).expect("begun").length(), 0, "wrong content was kept");
}

#[test]
fn unused_images_go_and_used_or_fresh_ones_stay() {
    let (folder, store) = store();
    let make = |name: &str, content: &str| {
        let given = folder.path().join(name);
        layout(&given, &[tar_of(&[Entry::File("a", content)])]);
        let digest = import(&store, &given, None, None).expect("imported");
        store.refer(digest, 1_000).expect("referred");
        store.unpacked(digest).expect("unpacked");
        digest
    };
    let (used, unused) = (make("used", "1"), make("unused", "2"));
    assert_eq!(store.collect(&BTreeSet::from([used]), 1_000 + IMAGE_KEEP_MS - 1).expect("collected"), 0);
    let deleted = store.collect(&BTreeSet::from([used]), 1_000 + IMAGE_KEEP_MS).expect("collected");
    // Manifest, layer and root of the one; its configuration is shared with the other.
    assert_eq!(deleted, 3);
    assert!(store.size(used).is_some() && store.size(unused).is_none());
    store.unpacked(used).expect("still whole");
}
