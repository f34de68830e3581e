//! Which optimisations a compilation uses. Knows only their names.

macro_rules! optimisations {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The optimisations, each behind a switch so that its worth can be
        /// measured and its code tested alone. Programs run with all.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Optimisations {
            $($(#[$doc])* pub $name: bool,)*
        }

        impl Optimisations {
            /// Every one.
            pub const ALL: Optimisations = Optimisations { $($name: true,)* };
            /// None.
            pub const NONE: Optimisations = Optimisations { $($name: false,)* };
            /// Their names, in the order of declaration.
            pub const NAMES: &[&str] = &[$(stringify!($name),)*];

            /// The switch of that name.
            pub fn switch(&mut self, name: &str) -> Option<&mut bool> {
                match name {
                    $(stringify!($name) => Some(&mut self.$name),)*
                    _ => None,
                }
            }
        }
    };
}

optimisations! {
    /// Loads of neighbouring bytes that are shifted together become one load.
    byte_loads,
    /// Pairs of shifts become rotations and extensions.
    rotates,
    /// Sums are computed in addresses and `lea`.
    addresses,
    /// Copies between registers are made when the original goes away.
    copies,
    /// Immediates, displacements and widths are as short as they can be.
    short_encodings,
    /// A function saves only the registers and makes only the room it uses.
    small_frames,
    /// Heads of loops begin on a multiple of the fetch width.
    aligned_loops,
    /// Bits known to be zero make masks and extensions needless.
    value_masks,
    /// Shifts, rotations and multiplications of BMI2.
    bmi2,
    /// Jumps of two bytes where the target is near.
    short_jumps,
    /// Division by a constant becomes multiplication.
    constant_division,
    /// A branch over a jump becomes the opposite branch.
    inverted_branches,
    /// Loads become memory operands of the instructions that use them.
    memory_operands,
    /// Byte swaps of loads by `movbe`.
    movbe,
    /// Helpers are called by distance where they are near.
    near_calls,
    /// Loops that fill or copy memory use the processor's instructions for it.
    bulk_loops,
    /// Look-ups in arrays and cheap helpers are part of the code.
    inlined_helpers,
}

impl Default for Optimisations {
    fn default() -> Optimisations {
        Optimisations::ALL
    }
}
