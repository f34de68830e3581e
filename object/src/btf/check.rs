//! What shapes say of each other: sizes, loops and the kinds of what ids name
//! (`btf_check_all_types`).

use uapi::Errno;

use super::types::*;
use super::{Btf, BtfError};

/// The refusal of types that contain themselves.
const LOOP: &str = "Loop detected";

/// Bytes of each type. Refuses types that contain themselves, and names that
/// end nowhere.
pub(super) fn sizes(types: &[Type]) -> Result<Vec<Option<u32>>, BtfError> {
    let mut sizes = vec![None; types.len()];
    in_order(types, contains, |id| {
        sizes[id] = size(&types[id].shape, &sizes).map_err(|reason| fail(types, id, reason))?;
        Ok(())
    })?;
    in_order(types, points, |_| Ok(()))?;
    Ok(sizes)
}

fn fail(types: &[Type], id: usize, reason: impl std::fmt::Display) -> BtfError {
    BtfError::invalid(format!("[{id}] {} {reason}", types[id].shape.kind_name()))
}

/// Size of a type all of whose parts have theirs.
fn size(shape: &Shape, sizes: &[Option<u32>]) -> Result<Option<u32>, &'static str> {
    let of = |id: u32| sizes.get(id as usize).copied().flatten();
    Ok(match *shape {
        Shape::Void
        | Shape::Fwd { .. }
        | Shape::Func { .. }
        | Shape::FuncProto { .. }
        | Shape::DeclTag { .. } => None,
        Shape::Int { size, .. }
        | Shape::Struct { size, .. }
        | Shape::Union { size, .. }
        | Shape::Enum { size, .. }
        | Shape::DataSec { size, .. }
        | Shape::Float { size } => Some(size),
        Shape::Ptr(_) => Some(8),
        Shape::Array { element, count, .. } => {
            let element = of(element).ok_or("Invalid elem")?;
            let bytes = element.checked_mul(count);
            Some(bytes.ok_or("Array size overflows U32_MAX")?)
        }
        Shape::Modifier { to, .. } => of(to),
        Shape::Var { ty, .. } => of(ty),
    })
}

/// Calls `each` with the ids of what a value of the type contains.
fn contains(shape: &Shape, each: &mut dyn FnMut(u32)) {
    match shape {
        Shape::Array { element, index, .. } => {
            each(*element);
            each(*index);
        }
        Shape::Struct { members, .. } | Shape::Union { members, .. } => {
            members.iter().for_each(|member| each(member.ty));
        }
        Shape::Modifier { to, .. } => each(*to),
        Shape::Var { ty, .. } => each(*ty),
        _ => {}
    }
}

/// Calls `each` with what a chain of pointers and modifiers leads to.
fn points(shape: &Shape, each: &mut dyn FnMut(u32)) {
    if let Shape::Ptr(to) | Shape::Modifier { to, .. } = shape {
        each(*to);
    }
}

/// Visits every type after those that `edges` leads to.
fn in_order(
    types: &[Type],
    edges: fn(&Shape, &mut dyn FnMut(u32)),
    mut visit: impl FnMut(usize) -> Result<(), BtfError>,
) -> Result<(), BtfError> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; types.len()];
    let mut todo: Vec<usize> = Vec::new();
    for start in 0..types.len() {
        if marks[start] == Mark::New {
            todo.push(start);
        }
        while let Some(&id) = todo.last() {
            match marks[id] {
                Mark::Done => {
                    todo.pop();
                    continue;
                }
                Mark::Open => {
                    marks[id] = Mark::Done;
                    visit(id)?;
                    todo.pop();
                    continue;
                }
                Mark::New => marks[id] = Mark::Open,
            }
            let mut error = None;
            edges(&types[id].shape, &mut |to| match marks.get(to as usize) {
                None => error = Some("Invalid type_id"),
                Some(Mark::Open) => error = Some(LOOP),
                // At most once per edge: bounded by the bytes.
                Some(Mark::New) => todo.push(to as usize),
                Some(Mark::Done) => {}
            });
            if let Some(reason) = error {
                let mut error = fail(types, id, reason);
                if reason == LOOP {
                    error.errno = Errno::EEXIST;
                }
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Whether every id names a type that may stand there.
pub(super) fn references(btf: &Btf) -> Result<(), BtfError> {
    for (id, ty) in btf.types.iter().enumerate() {
        reference(btf, &ty.shape).map_err(|reason| {
            let name = btf.string(ty.name).filter(|name| !name.is_empty());
            let (kind, name) = (ty.shape.kind_name(), name.unwrap_or("(anon)"));
            BtfError::invalid(format!("[{id}] {kind} {name} {reason}"))
        })?;
    }
    Ok(())
}

fn reference(btf: &Btf, shape: &Shape) -> Result<(), String> {
    let demand = |holds: bool, reason: &str| holds.then_some(()).ok_or_else(|| reason.to_owned());
    match *shape {
        Shape::Ptr(to) | Shape::Modifier { to, .. } => {
            // A tag, too, may stand before what has no size.
            let unsized_ok = matches!(
                btf.resolved(to).1,
                Shape::Void | Shape::Fwd { .. } | Shape::FuncProto { .. }
            );
            let there = btf.get(to).is_some() && !is_declaration(btf, to);
            demand(
                there && (unsized_ok || btf.size(to).is_some()),
                "Invalid type_id",
            )
        }
        Shape::Array { index, element, .. } => {
            let whole = |id| match btf.resolved(id).1 {
                Shape::Int { bits, offset, .. } => {
                    *offset == 0 && matches!(bits, 8 | 16 | 32 | 64 | 128)
                }
                _ => false,
            };
            demand(whole(index), "Invalid index")?;
            let int = matches!(btf.resolved(element).1, Shape::Int { .. });
            demand(!is_declaration(btf, element), "Invalid elem")?;
            demand(!int || whole(element), "Invalid array of int")
        }
        Shape::Struct { size, ref members } | Shape::Union { size, ref members } => {
            members.iter().try_for_each(|m| member(btf, size, m))
        }
        Shape::Func { proto, .. } => {
            let Some(Shape::FuncProto { params, .. }) = btf.get(proto).map(|ty| &ty.shape) else {
                return Err("Invalid type_id".to_owned());
            };
            let nameless = params.iter().position(|p| p.name == 0 && p.ty != 0);
            match nameless {
                Some(number) => Err(format!("Invalid arg#{}", number + 1)),
                None => Ok(()),
            }
        }
        Shape::FuncProto { ret, ref params } => {
            let sized = |id| btf.size(id).is_some() && !is_declaration(btf, id);
            demand(ret == 0 || sized(ret), "Invalid return type")?;
            let wrong = params.iter().position(|p| p.ty != 0 && !sized(p.ty));
            match wrong {
                Some(number) => Err(format!("Invalid arg#{}", number + 1)),
                None => Ok(()),
            }
        }
        Shape::Var { ty, .. } => demand(
            btf.size(ty).is_some() && !is_declaration(btf, ty),
            "Invalid type_id",
        ),
        Shape::DataSec { ref vars, .. } => vars.iter().try_for_each(|var| {
            let is_var = matches!(btf.get(var.ty).map(|t| &t.shape), Some(Shape::Var { .. }));
            demand(is_var, "Not a VAR kind member")?;
            let size = btf.size(var.ty).unwrap_or(u32::MAX);
            demand(size <= var.size, "Invalid size")
        }),
        Shape::DeclTag { to, component } => tag(btf, to, component),
        _ => Ok(()),
    }
}

/// Whether an id names something that is not a type of values.
fn is_declaration(btf: &Btf, id: u32) -> bool {
    matches!(
        btf.get(id).map(|ty| &ty.shape),
        Some(
            Shape::Var { .. } | Shape::DataSec { .. } | Shape::DeclTag { .. } | Shape::Func { .. }
        )
    )
}

fn member(btf: &Btf, size: u32, member: &Member) -> Result<(), String> {
    let bytes = btf
        .size(member.ty)
        .filter(|_| !is_declaration(btf, member.ty));
    let Some(bytes) = bytes else {
        return Err("Invalid member".to_owned());
    };
    let shape = btf.resolved(member.ty).1;
    let numeric = matches!(shape, Shape::Int { .. } | Shape::Enum { .. });
    let bits = match *shape {
        _ if member.bits != 0 => u32::from(member.bits),
        Shape::Int { bits, offset, .. } => u32::from(bits) + u32::from(offset),
        _ => bytes.saturating_mul(8),
    };
    if member.bits != 0 && (!numeric || bits > bytes.saturating_mul(8)) {
        return Err("Invalid member bitfield_size".to_owned());
    }
    if !member.bit.is_multiple_of(8) && !numeric {
        return Err("Member is not byte aligned".to_owned());
    }
    let end = u64::from(member.bit) + u64::from(bits);
    if end.div_ceil(8) > u64::from(size) {
        return Err("Member exceeds struct_size".to_owned());
    }
    Ok(())
}

fn tag(btf: &Btf, to: u32, component: i32) -> Result<(), String> {
    let parts = match btf.get(to).map(|ty| &ty.shape) {
        Some(Shape::Struct { members, .. } | Shape::Union { members, .. }) => members.len(),
        Some(&Shape::Func { proto, .. }) => match btf.get(proto).map(|ty| &ty.shape) {
            Some(Shape::FuncProto { params, .. }) => params.len(),
            _ => return Err("Invalid type_id".to_owned()),
        },
        Some(
            Shape::Var { .. }
            | Shape::Modifier {
                kind: Modifier::Typedef,
                ..
            },
        ) => 0,
        _ => return Err("Invalid type_id".to_owned()),
    };
    if component >= 0 && component as usize >= parts {
        return Err("Invalid component_idx".to_owned());
    }
    Ok(())
}
