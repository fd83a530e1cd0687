//! SIGTERM and SIGINT, by the two C functions that every static program is linked with anyway.
//!
//! The kernel drops signals to a container's first process unless it has a handler, so a program that does not ask for
//! SIGTERM is only ever ended by SIGKILL, after the runtime's whole grace period.
#![allow(unsafe_code, reason = "std has no way to handle a signal")]

use std::ffi::c_int;

const SIGINT: c_int = 2;
const SIGTERM: c_int = 15;

unsafe extern "C" {
    fn signal(number: c_int, handler: extern "C" fn(c_int)) -> usize;
    fn _exit(code: c_int) -> !;
}

/// Lets the process end with exit code 0 at SIGTERM.
pub(crate) fn end_on_term() {
    end_on(SIGTERM);
}

/// Lets the process end with exit code 0 at SIGINT.
pub(crate) fn end_on_interrupt() {
    end_on(SIGINT);
}

fn end_on(number: c_int) {
    // SAFETY: the handler is a plain function that lives as long as the program, and does nothing but `_exit`.
    unsafe { signal(number, end) };
}

extern "C" fn end(_: c_int) {
    // SAFETY: `_exit` may be called from a signal handler, and has no other demands.
    unsafe { _exit(0) }
}
