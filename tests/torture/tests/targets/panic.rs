//! Panics that are caught, that end a thread, and one with its backtrace.
use std::backtrace::Backtrace;
use std::panic::{catch_unwind, resume_unwind};

struct Counted<'a>(&'a std::cell::Cell<u32>);
impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

#[inline(never)]
fn fails(n: u32, count: &std::cell::Cell<u32>) -> u32 {
    let _counted = Counted(count);
    if n == 0 {
        panic!("as asked");
    }
    std::hint::black_box(fails(n - 1, count)) + 1
}

#[inline(never)]
pub fn told(n: u32) -> Backtrace {
    if n == 0 { Backtrace::force_capture() } else { std::hint::black_box(told(n - 1)) }
}

fn main() {
    std::panic::set_hook(Box::new(|_| {}));
    let rounds: u32 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(50);
    let count = std::cell::Cell::new(0);
    for n in 0..rounds {
        let caught = catch_unwind(std::panic::AssertUnwindSafe(|| fails(n % 40, &count)));
        assert!(caught.is_err());
        let again = catch_unwind(std::panic::AssertUnwindSafe(|| resume_unwind(caught.unwrap_err())));
        assert_eq!(again.unwrap_err().downcast_ref::<&str>(), Some(&"as asked"));
        let ended = std::thread::spawn(move || fails(n % 5, &std::cell::Cell::new(0))).join();
        assert!(ended.is_err());
    }
    println!("{}", count.get());
    // One frame of the stub's is behind each probed one.
    let trace = told(5).to_string();
    let own = trace.lines().filter(|line| line.contains("panic::told") || line.contains("panic::main"));
    println!("{} frames", own.count());
}
