//! fork(2): the child's copy of the text keeps its hooks, but threads are not
//! copied, so the child gets an agent thread of its own. vfork(2) and
//! posix_spawn(3) run no handlers and need none: their children exec.

use std::time::Duration;

use crate::agent;
use crate::errno::preserved;

/// How long a child waits for its agent when hooks of its parent are not
/// meant for it.
const FILTER_TIMEOUT: Duration = Duration::from_millis(200);

/// Registers the handlers; once, after the engine's.
pub fn register() {
    // SAFETY: the handlers are functions of this library, which is never unloaded.
    // Without memory for them a forked child has no agent, and no harm is done.
    let _ = unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
}

extern "C" fn prepare() {
    if let Some(agent) = agent::get() {
        preserved(|| agent.lock().lock());
    }
}

extern "C" fn parent() {
    if let Some(agent) = agent::get() {
        preserved(|| agent.lock().unlock());
    }
}

extern "C" fn child() {
    let Some(agent) = agent::get() else { return };
    preserved(|| {
        // SAFETY: `prepare` took the lock, and the child has one thread.
        let state = unsafe { agent.state_under_lock() };
        state.forget_hits();
        let filtered = state.has_filtered_hooks();
        agent.lock().unlock();
        if agent.is_wanted_in_child() && agent.start() && filtered {
            // Until then a probe with a pid filter would run in the child.
            agent.follow_now(FILTER_TIMEOUT);
        }
    });
}
