//! What both engines must agree on, and what each promises alone.

#[path = "engines/arch/mod.rs"]
mod arch;
#[path = "engines/bulk.rs"]
mod bulk;
#[path = "engines/common.rs"]
mod common;
#[path = "engines/conformance.rs"]
mod conformance;
#[path = "engines/forms.rs"]
mod forms;
#[path = "engines/kernel.rs"]
mod kernel;
#[path = "engines/linking.rs"]
mod linking;
#[path = "engines/lookup.rs"]
mod lookup;
#[path = "engines/patterns.rs"]
mod patterns;
#[path = "engines/random.rs"]
mod random;
#[path = "engines/registers.rs"]
mod registers;
#[path = "engines/text.rs"]
mod text;
#[path = "engines/tracked.rs"]
mod tracked;
#[path = "engines/tracked_maker.rs"]
mod tracked_maker;
#[path = "engines/tracked_shapes.rs"]
mod tracked_shapes;
