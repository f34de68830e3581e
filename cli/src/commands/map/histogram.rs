//! Histograms of powers of two, in the layout that BPF tools use.

use std::fmt::Write;

use loader::show::{Histogram, Steps};
use object::btf::{Btf, Shape};

use super::super::json::Json;
use super::found::Found;
use super::typed::Typed;
use super::walk::Walk;
use crate::problem::Problem;

/// Most slots of a histogram: one for each power of two of 64 bits.
const MAX_SLOTS: usize = 64;

/// Draws a map: one histogram for each value that has `slots`, or one whose
/// slots are the elements of an array.
pub fn render(map: &Found, btf: Option<&Btf>, walk: Walk) -> Result<String, Problem> {
    let slots = btf.and_then(|btf| slots_in(btf, map.spec.btf_value_type_id));
    let mut text = String::new();
    if let (Some(slots), Some(btf)) = (slots, btf) {
        for (key, value) in walk {
            let counts: Vec<u64> = (0..slots.count)
                .map(|slot| {
                    map.values(&value)
                        .map(|copy| slots.count_of(copy, slot))
                        .sum()
                })
                .collect();
            if map.spec.max_entries > 1 && map.spec.btf_key_type_id != 0 {
                let mut json = Json::new(false);
                Typed { btf, plain: true }.write(&mut json, map.spec.btf_key_type_id, &key);
                // Writing to a string cannot fail.
                let _ = write!(text, "key {}", json.finish());
            }
            text.push_str(&draw(&counts));
        }
        return Ok(text);
    }
    let size = map.spec.value_size as usize;
    if !matches!(size, 4 | 8) || map.spec.key_size != 4 || map.spec.max_entries as usize > MAX_SLOTS
    {
        return Err(map.problem(
            "holds no histogram",
            "its values must have an array of integers named slots, or it must be an array of up to 64 integers",
        ));
    }
    let mut counts = vec![0; map.spec.max_entries as usize];
    for (key, value) in walk {
        let index = key.try_into().map_or(u32::MAX, u32::from_le_bytes) as usize;
        if let Some(count) = counts.get_mut(index) {
            *count = map.values(&value).map(integer).sum();
        }
    }
    text.push_str(&draw(&counts));
    Ok(text)
}

/// Where a value has its slots.
struct Slots {
    at: usize,
    size: usize,
    count: usize,
}

impl Slots {
    fn count_of(&self, value: &[u8], slot: usize) -> u64 {
        let at = self.at + slot * self.size;
        value.get(at..at + self.size).map_or(0, integer)
    }
}

fn slots_in(btf: &Btf, ty: u32) -> Option<Slots> {
    let (_, shape) = btf.resolved(ty);
    let of_array = |ty: u32, at: usize| {
        let (_, Shape::Array { element, count, .. }) = btf.resolved(ty) else {
            return None;
        };
        let (_, Shape::Int { size, .. }) = btf.resolved(*element) else {
            return None;
        };
        Some(Slots {
            at,
            size: *size as usize,
            count: (*count as usize).min(MAX_SLOTS),
        })
    };
    let named = |name: u32| btf.string(name) == Some("slots");
    match shape {
        Shape::Array { .. } => of_array(ty, 0),
        shape => shape
            .members()
            .iter()
            .find(|member| named(member.name))
            .and_then(|member| of_array(member.ty, member.bit as usize / 8)),
    }
}

fn integer(bytes: &[u8]) -> u64 {
    let mut raw = [0; 8];
    for (to, from) in raw.iter_mut().zip(bytes) {
        *to = *from;
    }
    u64::from_le_bytes(raw)
}

fn draw(counts: &[u64]) -> String {
    let histogram = Histogram {
        counts,
        steps: Steps::Log2,
        unit: "value",
    };
    histogram.draw()
}
