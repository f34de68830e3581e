//! Pointers to structures of the kernel: what a program may read through
//! them, and how helpers give and take them (`check_ptr_to_btf_access`, Linux
//! 6.18). It knows no structure: [`KernelTypes`] does.
//!
//! Only who judges a program for the kernel has such types. User space has no
//! such structures, so programs that run here cannot get a pointer to one.

use uapi::Errno;

use super::Fail;
use super::range::Scalar;
use super::state::{Kind, Reg, Structure, Trust};
use super::walk::Walk;

/// What some bytes of a structure are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelField {
    /// Numbers, or a pointer that cannot be followed.
    Scalar,
    /// A pointer to something that is no structure.
    Memory,
    /// A pointer to a structure.
    Pointer {
        /// The structure.
        to: u32,
        /// Whether it may be NULL (tagged `__rcu`).
        or_null: bool,
        /// Whether it shares its bytes with something else (a union).
        untrusted: bool,
    },
}

/// The structures of the kernel for which a program is judged.
pub trait KernelTypes {
    /// The structure with this name.
    fn structure(&self, name: &str) -> Option<u32>;
    /// The name of a structure.
    fn name(&self, structure: u32) -> &str;
    /// What `size` bytes at `off` of a structure are.
    ///
    /// # Errors
    /// The kernel's errno and words for bytes that are no field.
    fn field(&self, structure: u32, off: u32, size: u32) -> Result<KernelField, (Errno, String)>;
}

impl Walk<'_> {
    /// A load through a pointer to a structure.
    pub(super) fn load_object(
        &mut self,
        number: u8,
        reg: &Reg,
        off: i64,
        size: u32,
    ) -> Result<Reg, Fail> {
        let Kind::Object {
            of, or_null: false, ..
        } = reg.kind
        else {
            let text = format!("R{number} invalid mem access '{}'", reg.kind.name());
            return Err(Fail::eacces(text).hint("compare the pointer with NULL first"));
        };
        let (Some(types), Structure::Type(id)) = (self.env.kernel_types(), of) else {
            let text = "structures of the kernel cannot be reached from user space";
            return Err(Fail::einval(text)
                .hint("read its fields with bpf_probe_read_kernel() or BPF_CORE_READ()"));
        };
        let name = types.name(id);
        if !self.spec.gpl {
            return Err(Fail::einval(format!(
                "Cannot access kernel 'struct {name}' from non-GPL compatible program"
            )));
        }
        let Some(start) = reg.val.as_const() else {
            return Err(Fail::eacces(format!(
                "R{number} is ptr_{name} invalid variable offset: off={off}"
            )));
        };
        let at = (start as i64).wrapping_add(off);
        let Ok(at) = u32::try_from(at) else {
            return Err(Fail::eacces(format!(
                "R{number} is ptr_{name} invalid negative access: off={at}"
            )));
        };
        let field = types
            .field(id, at, size)
            .map_err(|(errno, text)| Fail::new(errno, text))?;
        let (to, or_null, shared) = match field {
            KernelField::Scalar => return Ok(Reg::scalar(Scalar::unknown_bytes(size))),
            KernelField::Memory => return Ok(Reg::pointer(Kind::UntrustedMem, 0, 0)),
            KernelField::Pointer {
                to,
                or_null,
                untrusted,
            } => (to, or_null, untrusted),
        };
        let trust = match reg.kind {
            _ if shared => Trust::Guessed,
            Kind::Object {
                trust: Trust::Guessed,
                ..
            } => Trust::Guessed,
            _ => Trust::Read,
        };
        let id = if or_null { self.fresh_id() } else { 0 };
        let kind = Kind::Object {
            of: Structure::Type(to),
            trust,
            or_null,
        };
        Ok(Reg::pointer(kind, 0, id))
    }

    /// The structure with this name.
    pub(super) fn structure(&self, name: &'static str) -> Structure {
        let types = self.env.kernel_types();
        let id = types.and_then(|types| types.structure(name));
        id.map_or(Structure::Named(name), Structure::Type)
    }

    /// Its name.
    pub(super) fn structure_name(&self, structure: Structure) -> &str {
        match (structure, self.env.kernel_types()) {
            (Structure::Named(name), _) => name,
            (Structure::Type(id), Some(types)) => types.name(id),
            (Structure::Type(_), None) => "?",
        }
    }

    /// A pointer to the structure with this name as an argument.
    pub(super) fn object_argument(
        &self,
        number: u8,
        reg: &Reg,
        expected: &'static str,
    ) -> Result<(), Fail> {
        let Kind::Object {
            of,
            trust: Trust::Given | Trust::Read,
            or_null: false,
        } = reg.kind
        else {
            let found = reg.kind.name();
            let text = format!("R{number} type={found} expected=ptr_, trusted_ptr_, rcu_ptr_");
            return Err(Fail::eacces(text));
        };
        if self.structure(expected) == of && reg.val.as_const() == Some(0) {
            return Ok(());
        }
        let found = self.structure_name(of);
        let text = format!("R{number} is of type {found} but {expected} is expected");
        Err(Fail::eacces(text))
    }
}
