use std::fs::{self, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};
use tempfile::TempDir;

use super::*;

const CODE: &[u8] = b"what a compiler made";

/// A cache in a directory of its own, with one entry.
struct One {
    home: TempDir,
    cache: Cache,
    key: Key,
}

impl One {
    fn new() -> One {
        let home = tempfile::tempdir().expect("a directory");
        let cache = Cache::open(&home.path().join("a/b")).expect("a cache");
        let key = key(b"module");
        cache.put(&key, CODE);
        assert_eq!(cache.get(&key).as_deref(), Some(CODE));
        One { home, cache, key }
    }

    fn dir(&self) -> PathBuf {
        self.home.path().join("a/b")
    }

    fn entry(&self) -> PathBuf {
        self.dir().join(&self.key.0)
    }

    /// The entry is not found, until it is stored again.
    fn expect_replaced(&self, what: &str) {
        assert_eq!(self.cache.get(&self.key), None, "{what}");
        self.cache.put(&self.key, CODE);
        assert_eq!(self.cache.get(&self.key).as_deref(), Some(CODE), "{what}");
        let metadata = fs::symlink_metadata(self.entry()).expect("the entry");
        assert!(metadata.is_file(), "{what}");
        assert_eq!(metadata.mode() & 0o7777, 0o600, "{what}");
        assert_eq!(names(&self.dir()), [self.key.0.as_str()], "{what}");
    }
}

fn key(module: &[u8]) -> Key {
    Key::new(&Engine::default(), module)
}

fn names(dir: &Path) -> Vec<String> {
    let name = |entry: io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
    let entries = fs::read_dir(dir).expect("the directory");
    let mut names: Vec<String> = entries
        .map(|entry| name(entry).into_string().expect("a name"))
        .collect();
    names.sort();
    names
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("another mode");
}

#[test]
fn keys_tell_modules_and_compilers_apart() {
    let mut config = wasmtime::Config::new();
    config.epoch_interruption(true);
    let other = Engine::new(&config).expect("an engine");
    assert_eq!(key(b"module"), key(b"module"));
    assert_ne!(key(b"module"), key(b"modulf"));
    assert_ne!(key(b"module"), Key::new(&other, b"module"));
}

#[test]
fn what_was_stored_is_found_and_nothing_else() {
    let one = One::new();
    assert_eq!(one.cache.get(&key(b"another")), None);
    assert_eq!(names(&one.dir()), [one.key.0.as_str()]);
    let mode = |path: &Path| fs::metadata(path).expect("it is there").mode() & 0o7777;
    assert_eq!(mode(&one.dir()), 0o700);
    assert_eq!(mode(&one.entry()), 0o600);
}

#[test]
fn what_was_changed_is_not_found() {
    let one = One::new();
    let whole = fs::read(one.entry()).expect("the entry");
    for length in 0..whole.len() {
        fs::write(one.entry(), &whole[..length]).expect("shorter");
        assert_eq!(one.cache.get(&one.key), None, "{length} bytes");
    }
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(one.entry(), changed).expect("changed");
        assert_eq!(one.cache.get(&one.key), None, "byte {at}");
    }
    fs::write(one.entry(), [&whole[..], b"x"].concat()).expect("longer");
    one.expect_replaced("a byte more");
}

#[test]
fn entries_that_others_may_write_or_made_are_not_found() {
    let one = One::new();
    for mode in [0o620, 0o602, 0o640, 0o604, 0o677] {
        set_mode(&one.entry(), mode);
        one.expect_replaced(&format!("mode {mode:o}"));
    }
    if geteuid().is_root() {
        chown(one.entry(), Some(65534), None).expect("another owner");
        one.expect_replaced("another owner");
    }
    let moved = one.home.path().join("moved");
    fs::rename(one.entry(), &moved).expect("elsewhere");
    symlink(&moved, one.entry()).expect("a link");
    one.expect_replaced("a symbolic link");
    fs::remove_file(one.entry()).expect("no entry");
    mkfifo(&one.entry(), Mode::S_IRUSR | Mode::S_IWUSR).expect("a pipe");
    one.expect_replaced("a pipe that nobody writes to");
}

#[test]
fn directories_that_others_may_write_or_made_are_not_used() {
    let one = One::new();
    for mode in [0o770, 0o707, 0o755, 0o777] {
        set_mode(&one.dir(), mode);
        assert!(Cache::open(&one.dir()).is_none(), "mode {mode:o}");
    }
    set_mode(&one.dir(), 0o700);
    assert!(Cache::open(&one.dir()).is_some());
    let link = one.home.path().join("link");
    symlink(one.dir(), &link).expect("a link");
    assert!(Cache::open(&link).is_none());
    assert!(Cache::open(&one.entry()).is_none(), "a file");
    assert!(
        Cache::open(&one.entry().join("x")).is_none(),
        "below a file"
    );
    if geteuid().is_root() {
        chown(one.dir(), Some(65534), None).expect("another owner");
        assert!(Cache::open(&one.dir()).is_none(), "another owner");
    }
}

#[test]
fn who_cannot_store_goes_without() {
    let mut one = One::new();
    one.cache.most_bytes = 64;
    one.cache.put(&key(b"large"), &[0; 128]);
    assert_eq!(one.cache.get(&key(b"large")), None);
    assert_eq!(names(&one.dir()), [one.key.0.as_str()]);
    // A directory in the entry's place.
    let in_the_way = key(b"in the way");
    DirBuilder::new()
        .mode(0o700)
        .create(one.dir().join(&in_the_way.0))
        .expect("a directory");
    one.cache.put(&in_the_way, b"x");
    assert_eq!(one.cache.get(&in_the_way), None);
    assert_eq!(names(&one.dir()).len(), 2);
    fs::remove_dir_all(one.dir()).expect("gone");
    one.cache.put(&one.key, CODE);
    assert_eq!(one.cache.get(&one.key), None);
}

#[test]
fn what_was_not_used_for_longest_goes_first() {
    let mut one = One::new();
    let entry = (CODE.len() + DIGEST) as u64;
    one.cache.most_bytes = 3 * entry;
    let age = |path: &Path, seconds: u64| {
        let file = File::options().write(true).open(path).expect("an entry");
        let time = SystemTime::now() - Duration::from_secs(seconds);
        file.set_modified(time).expect("older");
    };
    let (old, new) = (key(b"old"), key(b"new"));
    one.cache.put(&old, CODE);
    let leftover = one.dir().join(".leftover");
    fs::write(&leftover, CODE).expect("a leftover");
    age(&leftover, 30);
    age(&one.dir().join(&old.0), 20);
    age(&one.entry(), 40);
    // It is used.
    assert!(one.cache.get(&one.key).is_some());
    one.cache.put(&new, CODE);
    assert!(!leftover.exists());
    assert!(one.cache.get(&old).is_some());
    age(&one.dir().join(&old.0), 20);
    one.cache.put(&key(b"newer"), CODE);
    assert_eq!(one.cache.get(&old), None);
    assert!(one.cache.get(&one.key).is_some());
    assert!(one.cache.get(&new).is_some());
}

#[test]
fn many_at_once_see_all_or_nothing() {
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("a");
    let code: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let cache = Cache::open(&dir).expect("a cache");
                for _ in 0..10 {
                    cache.put(&key(b"module"), &code);
                    assert!(cache.get(&key(b"module")).is_some_and(|got| got == code));
                }
            });
        }
    });
    assert_eq!(names(&dir).len(), 1);
}
