//! `BPF_BTF_LOAD`.

use runtime::command::Object;
use uapi::Errno;
use uapi::attr::{self, out};
use uapi::btf::BTF_MAX_BYTES;

use super::call::Call;
use super::prog::{Text, put_log};
use crate::user;

pub fn load(call: &Call) -> Result<i64, Errno> {
    let attr = attr::BtfLoad::decode(&call.bytes);
    if attr.btf_size > BTF_MAX_BYTES {
        return Err(Errno::E2BIG);
    }
    let log = Text {
        level: attr.btf_log_level,
        address: attr.btf_log_buf,
        size: attr.btf_log_size,
        true_size_at: out::BTF_LOAD_LOG_TRUE_SIZE,
    };
    log.check()?;
    let bytes = user::read_vec(attr.btf, attr.btf_size as usize)?;
    let loaded = call.server.bpf.btf_load(bytes);
    let text = match &loaded {
        Err(error) => format!("{error}\n"),
        Ok(_) => String::new(),
    };
    put_log(call, &log, &text, text.len())?;
    let btf = loaded.map_err(|error| error.errno)?;
    call.new_fd(Object::Btf(btf))
}
