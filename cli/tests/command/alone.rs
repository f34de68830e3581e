//! Processes that were attached to and then make calls for which they must
//! have one thread, or that end with their first thread: as if nobody was
//! there. The agent is away meanwhile, and back afterwards.

use std::time::{Duration, Instant};

use crate::attach::program;
use crate::common::{Place, can, check, is_root};

/// What the programs share: they have one thread when nobody attaches.
const ALONE: &str = r#"
#include <dirent.h>
#include <grp.h>
#include <sched.h>
#include <sys/wait.h>
static int threads(void) { int n = 0; DIR *d = opendir("/proc/self/task"); for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.'; closedir(d); return n; }
static int becomes(int wanted) { for (int i = 0; i < 3000 && threads() != wanted; i++) usleep(1000); return threads() == wanted; }
static void until_told(void) { char c; ready(); while (read(0, &c, 1) > 0) ; }
#define TRY(call) do { errno = 77; if ((call) != 0) { perror(#call); return 1; } if (errno != 77) fail("errno"); } while (0)
"#;

/// Attaches to the program; it says at its end whether everything was as it
/// should be.
#[track_caller]
fn is_as_if_alone(name: &str, main: &str) {
    let place = Place::new();
    let running = program(&place, name, &format!("{ALONE}int main(void) {{ {main} }}"));
    check(&mut place.bpftime(["attach", &running.pid()]), 0, "", "");
    let begun = Instant::now();
    assert_eq!(
        running.end(),
        ("as it should be\n".to_owned(), String::new(), Some(0))
    );
    assert!(begun.elapsed() < Duration::from_secs(5), "it ends at once");
}

#[test]
fn a_user_namespace_of_its_own() {
    is_as_if_alone(
        "unshares",
        r#"until_told(); if (!becomes(2)) fail("no agent");
           TRY(unshare(CLONE_NEWUSER)); if (!becomes(2)) fail("not back");
           if (unshare(1) != -1 || errno != EINVAL) fail("nonsense"); if (!becomes(2)) fail("not back again");
           puts("as it should be");"#,
    );
}

#[test]
fn a_user_namespace_of_its_child() {
    is_as_if_alone(
        "forks",
        r#"until_told(); pid_t child = fork();
           if (child == 0) { if (!becomes(2)) _exit(2); if (unshare(CLONE_NEWUSER)) _exit(3); _exit(becomes(2) ? 0 : 4); }
           int status; waitpid(child, &status, 0); if (status) { printf("%x\n", status); return 1; }
           child = vfork(); if (child == 0) { if (setuid(getuid())) _exit(5); execl("/bin/true", "true", (char *)0); _exit(6); }
           waitpid(child, &status, 0); if (status) { printf("vfork %x\n", status); return 1; }
           if (!becomes(2)) fail("not back"); puts("as it should be");"#,
    );
}

#[test]
fn namespaces_entered() {
    if !can("needs root", is_root()) {
        return;
    }
    is_as_if_alone(
        "enters",
        r#"until_told(); int user = open("/proc/self/ns/mnt", O_RDONLY);
           TRY(unshare(CLONE_NEWNS)); TRY(setns(user, CLONE_NEWNS)); if (!becomes(2)) fail("not back");
           puts("as it should be");"#,
    );
}

#[test]
fn users_changed() {
    if !can("needs root", is_root()) {
        return;
    }
    is_as_if_alone(
        "changes",
        r#"until_told(); gid_t groups[] = {1, 2}; if (!becomes(2)) fail("no agent");
           TRY(setgroups(2, groups)); TRY(setresgid(65534, 65534, 65534)); TRY(seteuid(65534)); TRY(seteuid(0));
           TRY(setreuid(65534, 65534)); if (setuid(0) != -1 || errno != EPERM) fail("setuid");
           if (!becomes(2)) fail("not back");
           puts("as it should be");"#,
    );
}

#[test]
fn the_first_thread_leaves() {
    is_as_if_alone(
        "leaves",
        r#"until_told(); void *last(void *arg) { usleep(50000); puts("as it should be"); return arg; }
           pthread_t t; pthread_create(&t, 0, last, 0); pthread_exit(0);"#,
    );
}

/// Without its agent, and with another.
#[test]
fn after_detach_and_attach() {
    let place = Place::new();
    let source = format!(
        "{ALONE}int main(void) {{ until_told(); TRY(unshare(CLONE_NEWUSER)); puts(\"as it should be\"); }}"
    );
    for again in [false, true] {
        let running = program(&place, "detached", &source);
        check(&mut place.bpftime(["attach", &running.pid()]), 0, "", "");
        check(&mut place.bpftime(["detach", &running.pid()]), 0, "", "");
        if again {
            check(&mut place.bpftime(["attach", &running.pid()]), 0, "", "");
        }
        assert_eq!(
            running.end(),
            ("as it should be\n".to_owned(), String::new(), Some(0))
        );
    }
}

/// What it forbids itself ends it: nobody may do that in it then.
#[test]
fn a_sandbox_of_its_own() {
    const FILTER: &str = r#"
#include <stddef.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
static void forbid(int by_prctl) {
  static const int numbers[] = {SYS_openat, SYS_mprotect, SYS_membarrier, SYS_process_vm_readv, SYS_getdents64, SYS_mmap, SYS_madvise, SYS_clone3, SYS_futex};
  struct sock_filter code[24]; int n = 0; code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
  for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++) { code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, numbers[i], 0, 1); code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS); }
  code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  struct sock_fprog program = {n, code}; if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) fail("no_new_privs");
  if (by_prctl ? prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) : syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program)) fail("seccomp"); }
"#;
    let place = Place::new();
    for by_prctl in [0, 1] {
        let source = format!(
            "{FILTER}int main(void) {{ char c; ready(); while (read(0, &c, 1) > 0) if (c == '\\n') {{ forbid({by_prctl}); puts(\"went on\"); fflush(stdout); }} puts(\"as it should be\"); fflush(stdout); _exit(0); }}"
        );
        let mut running = program(&place, "forbids", &source);
        let pid = running.pid();
        check(&mut place.bpftime(["attach", &pid]), 0, "", "");
        running.tell("go on\n");
        assert_eq!(running.line(), "went on");
        check(
            &mut place.bpftime(["detach", &pid]),
            1,
            "",
            &format!(
                "bpftime: {pid}: has no agent: nothing to detach; bpftime status lists those that have one\n"
            ),
        );
        check(
            &mut place.bpftime(["attach", &pid]),
            1,
            "",
            &format!(
                "bpftime: {pid}: runs under a seccomp filter of its own, which might kill it for what the agent does: start it without its sandbox\n"
            ),
        );
        assert_eq!(
            running.end(),
            ("as it should be\n".to_owned(), String::new(), Some(0))
        );
    }
}

/// What a container's runtime forbids by errors does not end a process; root
/// can look.
#[test]
fn a_sandbox_that_only_says_no() {
    if !can("needs root", is_root()) {
        return;
    }
    const FILTER: &str = r#"
#include <stddef.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define IS(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no)
#define ANSWER(value) BPF_STMT(BPF_RET | BPF_K, value)
static void forbid(unsigned number, unsigned answer) {
  struct sock_filter code[] = {LOAD(arch), IS(AUDIT_ARCH_X86_64, 1, 0), ANSWER(SECCOMP_RET_KILL_PROCESS),
    LOAD(nr), IS(SYS_mount, 0, 1), ANSWER(SECCOMP_RET_KILL_PROCESS), IS(number, 0, 1), ANSWER(answer), ANSWER(SECCOMP_RET_ALLOW)};
  struct sock_fprog program = {sizeof code / sizeof *code, code}; if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) fail("no_new_privs");
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) fail("seccomp"); }
"#;
    let place = Place::new();
    let refusal = "runs under a seccomp filter of its own, which might kill it for what the agent does: start it without its sandbox";
    for (number, answer, fits) in [
        ("SYS_unshare", "SECCOMP_RET_ERRNO | 1", true),
        ("SYS_clone3", "SECCOMP_RET_ERRNO | 38", true),
        ("SYS_process_vm_writev", "SECCOMP_RET_ERRNO | 1", false),
        ("SYS_membarrier", "SECCOMP_RET_KILL_PROCESS", false),
    ] {
        let source = format!(
            "{FILTER}int main(void) {{ char c; forbid({number}, {answer}); ready(); while (read(0, &c, 1) > 0) ; puts(\"as it should be\"); }}"
        );
        let running = program(&place, number, &source);
        let pid = running.pid();
        let line = format!("bpftime: {pid}: {refusal}\n");
        let (status, line) = if fits { (0, "") } else { (1, line.as_str()) };
        check(&mut place.bpftime(["attach", &pid]), status, "", line);
        assert_eq!(running.has_agent(), fits, "{number}");
        assert_eq!(
            running.end(),
            ("as it should be\n".to_owned(), String::new(), Some(0))
        );
    }
}
