//! The size of a terminal's window, by the C function that every static program is linked with anyway.
#![allow(unsafe_code, reason = "std knows nothing of terminals")]

use std::ffi::{c_int, c_ulong};
use std::io;

use super::Trouble;

/// `TIOCGWINSZ`, the same on x86_64 and aarch64.
const GET_WINDOW_SIZE: c_ulong = 0x5413;

unsafe extern "C" {
    fn ioctl(descriptor: c_int, request: c_ulong, ...) -> c_int;
}

/// Prints columns and rows for each line that comes.
pub(super) fn tell() -> Result<(), Trouble> {
    for line in io::stdin().lines() {
        line.map_err(|error| Trouble::failed("standard input", &error))?;
        let mut size = [0_u16; 4];
        // SAFETY: the kernel writes the four numbers of a `winsize`, for which there is room.
        if unsafe { ioctl(0, GET_WINDOW_SIZE, &raw mut size) } != 0 {
            return Err(Trouble::failed("no terminal", &io::Error::last_os_error()));
        }
        let [rows, columns, ..] = size;
        println!("{columns}x{rows}");
    }
    Ok(())
}
