//! The tool of `libbpf_rs.rs` with aya.

#[path = "shared.rs"]
mod shared;

use std::num::NonZeroU32;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::perf::PerfEvent;
use aya::maps::{Array, HashMap, PerCpuArray, PerfEventArray, RingBuf};
use aya::programs::uprobe::{UProbeAttachPoint, UProbeScope};
use aya::programs::{TracePoint, UProbe};
use aya::util::online_cpus;
use shared::{arguments, entry, result, say, show};

/// What the uretprobe's program finds.
const COOKIE: u64 = 77;

fn main() -> Result<()> {
    let [object, program, pid] = arguments()?;
    let pid: NonZeroU32 = pid.parse()?;
    let mut object = Ebpf::load_file(object)?;
    let mut map = |name: &str| object.take_map(name).with_context(|| name.to_owned());
    // Programs name maps by fd until they are loaded.
    let mut process: Array<_, u32> = Array::try_from(map("process")?)?;
    process.set(0, pid.get(), 0)?;
    let calls: PerCpuArray<_, u64> = PerCpuArray::try_from(map("calls")?)?;
    let lengths: HashMap<_, u32, u64> = HashMap::try_from(map("lengths")?)?;
    let sleeps: Array<_, u64> = Array::try_from(map("sleeps")?)?;
    let mut ring = RingBuf::try_from(map("entries")?)?;
    let mut results = PerfEventArray::try_from(map("results")?)?;
    let cpus = online_cpus().map_err(|(_, error)| error)?;
    let mut buffers = Vec::new();
    for cpu in cpus {
        buffers.push(results.open(cpu, None)?);
    }

    let on_add: &mut UProbe = object.program_mut("on_add").context("on_add")?.try_into()?;
    on_add.load()?;
    on_add.attach("rounds_add", &program, UProbeScope::OneProcess(pid))?;
    let on_added: &mut UProbe = object
        .program_mut("on_added")
        .context("on_added")?
        .try_into()?;
    on_added.load()?;
    let point = UProbeAttachPoint {
        location: "rounds_add".into(),
        cookie: Some(COOKIE),
    };
    on_added.attach(point, &program, UProbeScope::AllProcesses)?;
    let on_sleep: &mut TracePoint = object
        .program_mut("on_sleep")
        .context("on_sleep")?
        .try_into()?;
    on_sleep.load()?;
    on_sleep.attach("syscalls", "sys_enter_clock_nanosleep")?;

    say("ready")?;
    for line in std::io::stdin().lines() {
        line?;
        let mut said = Vec::new();
        while let Some(record) = ring.next() {
            said.push(entry(&record));
        }
        for buffer in &mut buffers {
            buffer.for_each(|event| {
                said.push(match event {
                    PerfEvent::Sample { head, tail } => result(&[head, tail].concat()),
                    PerfEvent::Lost { count } => format!("lost {count}"),
                });
            });
        }
        for element in lengths.iter() {
            let (length, count) = element?;
            said.push(format!("length {length}: {count}"));
        }
        let calls: u64 = calls.get(&0, 0)?.iter().sum();
        said.push(format!("calls {calls}, sleeps {}", sleeps.get(&0, 0)?));
        show(&mut said)?;
    }
    Ok(())
}
