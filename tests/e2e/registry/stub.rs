//! A registry with one module in it that behaves as a test says.

use bpftime_tests::Web;
use bpftime_tests::registry::sha256;
use bpftime_tests::web::{Answer, Asked};
use serde_json::json;

use super::{MANIFEST, MODULE};

/// The registry's `a:1` is the module, unless `door` answers first, who is
/// told the request and the registry's name.
pub fn stub(door: impl Fn(&Asked, &str) -> Option<Answer> + Send + Sync + 'static) -> Web {
    let config = b"{}";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": { "mediaType": "application/vnd.wasm.config.v0+json", "digest": sha256(config), "size": 2 },
        "layers": [{ "mediaType": "application/wasm", "digest": sha256(MODULE), "size": MODULE.len() }],
    })
    .to_string();
    let digest = sha256(manifest.as_bytes());
    let blob = format!("/v2/a/blobs/{}", sha256(MODULE));
    Web::new(move |asked| {
        let host = asked.headers.get("host").cloned().unwrap_or_default();
        if let Some(answer) = door(asked, &host) {
            return answer;
        }
        let is_manifest = asked.path == "/v2/a/manifests/1" || asked.path.ends_with(&digest);
        match asked.path.as_str() {
            "/v2/" => Answer::ok("{}"),
            path if path == blob => Answer::ok(MODULE),
            _ if is_manifest => {
                let said = format!("Docker-Content-Digest: {digest}");
                Answer::ok(manifest.clone()).with(said)
            }
            _ => Answer::status("404 Not Found"),
        }
    })
}
