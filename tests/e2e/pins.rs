//! Pins: what is pinned outlives its tool and is seen by the user's other tools,
//! in the kernel and here. The same stories are told in both.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bpftime_tests::{Program, World, wait};

/// A directory of bpffs that this test alone uses; gone with the story.
struct Pins<'a> {
    world: &'a World,
    path: PathBuf,
}

impl<'a> Pins<'a> {
    fn new(world: &'a World) -> Pins<'a> {
        let name = world.home().file_name().expect("a name");
        let path = Path::new("/sys/fs/bpf").join(name.to_string_lossy().replace('.', "-"));
        Pins { world, path }
    }

    fn tool(&self, options: &[&str]) -> Program {
        let mut words = vec![self.world.fixture("pinned").into_os_string(), "-d".into()];
        words.push(self.path.clone().into_os_string());
        words.extend(options.iter().map(Into::into));
        words.push(self.world.fixture("puppet").into_os_string());
        words.push("puppet_step".into());
        let mut tool = Program::on_pipes(self.world.tool(&words));
        assert_eq!(tool.line(), "ready");
        tool
    }

    /// Runs a command where bpffs is as tools see it; its output and errors.
    fn shell(&self, script: &str) -> String {
        let words = ["sh", "-c", script, "sh", self.path.to_str().expect("text")];
        let exit = Program::on_pipes(self.world.tool(&words)).finish();
        format!("{}{}", exit.stdout, exit.stderr)
    }
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        self.shell("rm -rf \"$1\"");
    }
}

/// Tells a story here, and in the kernel where there is one.
fn as_in_the_kernel(story: impl Fn(&World) -> String) -> String {
    let ours = story(&World::new());
    if let Some(kernel) = World::kernel() {
        assert_eq!(ours, story(&kernel), "here, and in the kernel");
    }
    ours
}

#[test]
fn a_second_run_goes_on_with_the_maps_of_the_first() {
    let told = as_in_the_kernel(|world| {
        let pins = Pins::new(world);
        let mut puppet = world.puppet();
        let mut lines = Vec::new();
        for calls in [5, 3, 7] {
            let mut tool = pins.tool(&[]);
            assert_eq!(puppet.ask(&format!("call {calls}")), "ok");
            lines.push(tool.ask("print"));
            tool.tell("quit");
            assert_eq!(tool.finish().code, 0);
        }
        lines.join("\n")
    });
    assert_eq!(
        told,
        "calls 5 keys 5 hash 5 percpu 5 array 5\n\
         calls 3 keys 5 hash 8 percpu 8 array 8\n\
         calls 7 keys 7 hash 15 percpu 15 array 15"
    );
}

#[test]
fn a_pinned_link_counts_on_when_its_tool_was_killed() {
    let told = as_in_the_kernel(|world| {
        let pins = Pins::new(world);
        let mut puppet = world.puppet();
        let mut tool = pins.tool(&[]);
        assert_eq!(tool.ask("link here"), "ok");
        assert_eq!(tool.ask("prog here"), "File exists");
        assert_eq!(puppet.ask("call 2"), "ok");
        tool.tell("kill");
        assert_eq!(tool.finish().code, 128 + 9);
        assert_eq!(puppet.ask("call 4"), "ok");
        let mut other = pins.tool(&["-o"]);
        let mut lines = vec![other.ask("print"), other.ask("records 6")];
        // Its ring wakes readers in other processes.
        assert_eq!(puppet.ask("call 3"), "ok");
        lines.push(other.ask("records 3"));
        lines.push(other.ask("open here"));
        lines.push(other.ask("unpin here"));
        assert_eq!(puppet.ask("call 1"), "ok");
        lines.push(other.ask("print"));
        lines.push(other.ask("close"));
        // In the kernel, too, a link ends some time after its last reference.
        let gone = || {
            let before = other.ask("print");
            assert_eq!(puppet.ask("call 1"), "ok");
            (before == other.ask("print")).then_some(())
        };
        wait::until("the link's end", Duration::from_secs(5), gone);
        lines.join("\n")
    });
    assert_eq!(
        told,
        "calls 0 keys 4 hash 6 percpu 6 array 6\n6\n3\nok\nok\n\
         calls 0 keys 4 hash 10 percpu 10 array 10\nok"
    );
}

#[test]
fn a_pinned_program_is_attached_by_another_tool() {
    let told = as_in_the_kernel(|world| {
        let pins = Pins::new(world);
        let mut puppet = world.puppet();
        let mut tool = pins.tool(&[]);
        assert_eq!(tool.ask("prog it"), "ok");
        assert_eq!(tool.ask("drop"), "ok");
        tool.tell("kill");
        assert_eq!(tool.finish().code, 128 + 9);
        assert_eq!(puppet.ask("call 2"), "ok");
        let mut other = pins.tool(&["-o"]);
        let mut lines = vec![other.ask("print"), other.ask("get it")];
        assert_eq!(puppet.ask("call 3"), "ok");
        lines.push(other.ask("print"));
        lines.join("\n")
    });
    assert_eq!(
        told,
        "calls 0 keys 0 hash 0 percpu 0 array 0\nok\ncalls 0 keys 3 hash 3 percpu 3 array 3"
    );
}

#[test]
fn pins_are_files_to_every_command() {
    let told = as_in_the_kernel(|world| {
        let pins = Pins::new(world);
        let mut tool = pins.tool(&[]);
        assert_eq!(tool.ask("prog it"), "ok");
        tool.tell("quit");
        assert_eq!(tool.finish().code, 0);
        pins.shell(
            "cd / ; exec 2>&1
             ls \"$1\"
             mkdir \"$1/deep\" \"$1/deep/er\" && mv \"$1/it\" \"$1/deep/er/moved\" && ls -R \"$1/deep\" | tail -1
             stat -c '%F %a' \"$1/kept_hash\" \"$1/deep\"
             stat -f -c %T \"$1\"
             cat \"$1/kept_ring\" 2>&1 | grep -o 'Input/output error'
             echo x 2>/dev/null >\"$1/new\" || echo not made
             mkdir \"$1/a.b\" 2>&1 | grep -o 'Operation not permitted'
             rmdir \"$1/deep\" 2>&1 | grep -o 'Directory not empty'
             rm \"$1/deep\" 2>&1 | grep -o 'Is a directory'
             rm \"$1/none\" 2>&1 | grep -o 'No such file or directory'
             test -e \"$1/kept_ring\" && echo there
             rm \"$1/deep/er/moved\" && rmdir \"$1/deep/er\" \"$1/deep\" && ls \"$1\" | wc -l
             mv \"$1/kept_ring\" /tmp/ 2>/dev/null || echo not moved out",
        )
    });
    assert_eq!(
        told,
        "it\nkept_array\nkept_hash\nkept_percpu\nkept_ring\nmoved\n\
         regular empty file 600\ndirectory 755\nbpf_fs\nInput/output error\nnot made\n\
         Operation not permitted\nDirectory not empty\nIs a directory\nNo such file or directory\n\
         there\n4\nnot moved out\n"
    );
}
