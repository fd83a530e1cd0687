//! System calls by number, to see which of them a container may make.
#![allow(unsafe_code, reason = "std makes no system call by its number")]

use std::ffi::c_long;
use std::io;

use crate::Trouble;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

/// Makes each call, given as `NUMBER[,ARGUMENT...]`, and prints it with the number of its error, 0 for none.
pub(crate) fn make(calls: &[String]) -> Result<(), Trouble> {
    for call in calls {
        let words: Option<Vec<c_long>> = call.split(',').map(|word| word.parse().ok()).collect();
        let words = words.ok_or_else(|| Trouble::Usage(format!("a call cannot be {call:?}")))?;
        let at = |index: usize| words.get(index).copied().unwrap_or(0);
        // SAFETY: that is the caller's promise; this program has nothing to lose, and says what it was asked to do.
        let result = unsafe { syscall(at(0), at(1), at(2), at(3), at(4), at(5), at(6)) };
        let error = if result == -1 { io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 };
        println!("{call} {error}");
    }
    Ok(())
}

/// Makes a system call, `getpid`, as a 32-bit program does.
#[cfg(target_arch = "x86_64")]
pub(crate) fn make_as_32_bit() -> Result<(), Trouble> {
    let mut register: c_long = 20;
    // SAFETY: the call takes nothing and changes nothing but the register of its result.
    unsafe { std::arch::asm!("int 0x80", inout("rax") register, out("r8") _, out("r9") _, out("r10") _, out("r11") _) };
    println!("process {register}");
    Ok(())
}

/// There is no way to make one here.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn make_as_32_bit() -> Result<(), Trouble> {
    Err(Trouble::Failed("this program makes no 32-bit call on this architecture".into()))
}
