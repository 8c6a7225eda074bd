//! llama.cpp's process-wide state: one backend, and its log lines.

use super::ffi;
use llama_cpp_2::llama_backend::LlamaBackend;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::OnceLock;

/// Error lines kept for [`with_reason`]; the first cause of a failed load is within the last few.
const ERRORS_KEPT: usize = 8;

/// The last error lines of llama.cpp: its functions tell failures by a null pointer, and the reason only here.
static ERRORS: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// The backend of this process, started on first use and kept to the end: llama.cpp allows one at a time.
pub(super) fn backend() -> &'static LlamaBackend {
    static BACKEND: OnceLock<LlamaBackend> = OnceLock::new();
    BACKEND.get_or_init(|| {
        ffi::take_logs();
        LlamaBackend::init().expect("the cell above starts the backend once, and nobody else does")
    })
}

/// One piece of llama.cpp's log. Errors are kept for [`with_reason`]; everything goes to `tracing` at debug, because
/// llama.cpp writes a hundred lines for a load that went well.
pub(super) fn log_line(is_error: bool, text: &str) {
    let text = text.trim_end();
    if text.is_empty() {
        return;
    }
    tracing::debug!(target: "llama.cpp", "{text}");
    if is_error {
        let mut errors = ERRORS.lock();
        if errors.len() == ERRORS_KEPT {
            errors.pop_front();
        }
        errors.push_back(text.to_owned());
    }
}

/// Runs a call of llama.cpp and gives, beside its failure, the error lines that it wrote.
///
/// # Errors
/// The lines, joined; the call's own error when there are none.
pub(super) fn with_reason<T, E: std::fmt::Display>(call: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    ERRORS.lock().clear();
    call().map_err(|error| {
        let lines: Vec<String> = ERRORS.lock().drain(..).collect();
        if lines.is_empty() { error.to_string() } else { lines.join("; ") }
    })
}
