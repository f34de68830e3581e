//! Which running tools a command looks at. It changes none.

use runtime::session::{Dirs, SessionView, list};

/// The sessions that a user means.
#[derive(clap::Args, Clone, Copy)]
pub struct Chosen {
    /// Only what belongs to the tool with this process id
    #[arg(long, value_name = "PID")]
    session: Option<i32>,
}

/// The line that names a session's tool; empty when it is gone and only pins
/// are left.
pub fn pids(view: &SessionView) -> String {
    match view.owner().pid {
        0 => String::new(),
        pid => format!("\tpids {}({pid})\n", view.command()),
    }
}

impl Chosen {
    /// Their views, by name. A session that ends meanwhile is as good as ended
    /// before.
    pub fn views(self) -> Vec<SessionView> {
        list(&Dirs::for_cli())
            .iter()
            .filter_map(|path| SessionView::open(path).ok())
            .filter(|view| self.session.is_none_or(|pid| view.owner().pid == pid))
            .collect()
    }
}
