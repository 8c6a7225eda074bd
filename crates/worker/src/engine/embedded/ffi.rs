//! The only unsafe code of the engine: two calls of llama.cpp that the binding does not wrap.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};

/// Re-quantises the GGUF `from` into the new file `to` as Q8_0, on `threads` threads. Gives llama.cpp's return code,
/// 0 for success. llama.cpp's backend must be initialised.
pub(super) fn quantize_q8_0(from: &CStr, to: &CStr, threads: i32) -> u32 {
    // SAFETY: takes no arguments and returns a plain struct of defaults, whose pointers are all null.
    let mut params = unsafe { llama_cpp_sys_2::llama_model_quantize_default_params() };
    params.nthread = threads;
    params.ftype = llama_cpp_sys_2::LLAMA_FTYPE_MOSTLY_Q8_0;
    params.allow_requantize = true;
    // SAFETY: both strings are NUL-terminated and outlive the call, `params` is initialised and outlives it too, and
    // the call keeps none of them. C++ exceptions are caught inside and become the return code.
    unsafe { llama_cpp_sys_2::llama_model_quantize(from.as_ptr(), to.as_ptr(), &raw const params) }
}

/// Sends every log line of llama.cpp and ggml to [`super::backend::log_line`] instead of stderr.
pub(super) fn take_logs() {
    // SAFETY: the callback is a static function that may be called from any thread, and it ignores the user pointer.
    unsafe { llama_cpp_sys_2::llama_log_set(Some(on_log), std::ptr::null_mut()) };
}

unsafe extern "C" fn on_log(level: llama_cpp_sys_2::ggml_log_level, text: *const c_char, _user: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a NUL-terminated string that lives during the call, and it is not null.
    let text = unsafe { CStr::from_ptr(text) };
    let is_error = level == llama_cpp_sys_2::GGML_LOG_LEVEL_ERROR;
    super::backend::log_line(is_error, &text.to_string_lossy());
}
