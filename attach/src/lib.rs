//! Function hooks in the own process: uprobe and uretprobe at addresses. It
//! knows no eBPF program, no map and no other process.
//!
//! Contract (fixed; extend, do not change without telling the others):
//!
//! ```text
//! /// What a hook calls. Runs on the thread that hit the point, with every
//! /// GPR, flag, xmm register and the red zone of the target saved.
//! pub type Callback = unsafe extern "C" fn(regs: *mut uapi::PtRegs, data: *const ());
//! pub enum Kind { Entry, Return }
//! pub struct Point { pub addr: usize, pub kind: Kind }
//! pub struct Probe { pub callback: Callback, pub data: *const () }   // data outlives the engine (leaked or static)
//! Engine::new() -> Result<Engine, AttachError>                       // one per process
//! Engine::attach(&self, points: &[(Point, Probe)]) -> Vec<Result<HookId, AttachError>>   // a batch; many per address, in attach order
//! Engine::detach(&self, ids: &[HookId])
//! Engine::forget_range(&self, range)                                  // module was unmapped: drop sites, write nothing
//! Engine::sites() -> Vec<SiteInfo>                                    // addr, tactic, number of probes
//! ```
//!
//! Text bounds, symbols and original file bytes of the module come in
//! through a `Module` argument or trait that the agent fills from `object`.
