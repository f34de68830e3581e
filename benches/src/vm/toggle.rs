//! What each optimisation of the JIT is worth: all programs with everything,
//! and with one optimisation left out.

use anyhow::Result;
use vm::jit::Optimisations;

use crate::engines;
use crate::measure::{agree, nanoseconds};
use crate::programs::{CPUS, ROWS};
use crate::report::mean;

/// Every optimisation, and the JIT without it.
fn without() -> impl Iterator<Item = (&'static str, Optimisations)> {
    Optimisations::NAMES.iter().map(|name| {
        let mut optimisations = Optimisations::ALL;
        *optimisations.switch(name).expect("a name of the list") = false;
        (*name, optimisations)
    })
}

/// Time and size without it as multiples of those with everything.
pub struct Worth {
    /// The optimisation.
    pub name: &'static str,
    /// Time: geometric mean over all programs.
    pub mean: f64,
    /// Bytes of code: the same.
    pub bytes: f64,
    /// The program that feels it most, and its multiple.
    pub most: (String, f64),
}

/// Measures every optimisation on every program whose name is wanted.
pub fn measure(wanted: &dyn Fn(&str) -> bool) -> Result<Vec<Worth>> {
    let mut factors = vec![Vec::new(); Optimisations::NAMES.len()];
    let mut sizes = factors.iter().map(|_| Vec::new()).collect::<Vec<_>>();
    for row in ROWS.iter().filter(|row| wanted(row.name)) {
        for cpu in CPUS {
            let Some(program) = row.program(cpu)? else {
                continue;
            };
            let times = nanoseconds(|_| {
                let full = engines::compiled(row, &program, &Optimisations::ALL);
                let less = without().map(|(_, less)| engines::compiled(row, &program, &less));
                let mut subjects: Vec<_> =
                    std::iter::once(full).chain(less).collect::<Result<_>>()?;
                agree(row, cpu, &mut subjects)?;
                Ok(subjects)
            })?;
            let full = engines::code_bytes(row, &program, &Optimisations::ALL)?;
            for (sizes, (_, less)) in sizes.iter_mut().zip(without()) {
                sizes.push(engines::code_bytes(row, &program, &less)? / full);
            }
            let (_, full) = times[0];
            for (at, (_, time)) in times[1..].iter().enumerate() {
                factors[at].push((format!("{} {cpu}", row.name), time / full));
            }
        }
    }
    let worth = |name, factors: Vec<(String, f64)>, sizes: Vec<f64>| {
        let bytes = mean(sizes.into_iter())?;
        let mean = mean(factors.iter().map(|(_, factor)| *factor))?;
        let most = factors.into_iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
        Some(Worth {
            name,
            mean,
            bytes,
            most,
        })
    };
    let names = Optimisations::NAMES.iter();
    Ok(names
        .zip(factors)
        .zip(sizes)
        .filter_map(|((name, factors), sizes)| worth(*name, factors, sizes))
        .collect())
}
