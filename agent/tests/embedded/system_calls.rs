//! The filter of system calls, asked by a program in a container.

use longshore_agent::runtime::Runtime;
use longshore_model::capability;
use nix::errno::Errno;
use serde_json::json;
use syscalls::Sysno;

use super::node::Node;

/// Exit code of a program that the filter killed.
const KILLED: i32 = 128 + nix::sys::signal::Signal::SIGSYS as i32;

/// Calls that are refused. Most of them would say something else without the filter, as told at their side.
const REFUSED: [(Sysno, &[i64], Errno); 28] = [
    (Sysno::unshare, &[0], Errno::EPERM),           // done
    (Sysno::setns, &[-1, 0], Errno::EPERM),         // EBADF
    (Sysno::mount, &[0, 0, 0, 0, 0], Errno::EPERM), // EFAULT
    (Sysno::umount2, &[0, 0], Errno::EPERM),        // EFAULT
    (Sysno::pivot_root, &[0, 0], Errno::EPERM),
    (Sysno::fsopen, &[0, 0], Errno::EPERM),
    (Sysno::open_tree, &[-1, 0, 0], Errno::EPERM),     // EFAULT
    (Sysno::keyctl, &[-1], Errno::EPERM),              // EOPNOTSUPP
    (Sysno::add_key, &[0, 0, 0, 0, 0], Errno::EPERM),  // EFAULT
    (Sysno::request_key, &[0, 0, 0, 0], Errno::EPERM), // EFAULT
    (Sysno::bpf, &[-1, 0, 0], Errno::EPERM),
    (Sysno::perf_event_open, &[0, 0, 0, 0, 0], Errno::EPERM), // EFAULT
    (Sysno::io_uring_setup, &[0, 0], Errno::EPERM),           // EFAULT
    (Sysno::userfaultfd, &[-1], Errno::EPERM),                // EINVAL
    (Sysno::get_mempolicy, &[0, 0, 0, 0, 0], Errno::EPERM),   // done
    (Sysno::open_by_handle_at, &[-1, 0, 0], Errno::EPERM),
    (Sysno::kcmp, &[1, 1, 0, 0, 0], Errno::EPERM),   // done
    (Sysno::pidfd_getfd, &[-1, 0, 0], Errno::EPERM), // EBADF
    (Sysno::init_module, &[0, 0, 0], Errno::EPERM),
    (Sysno::kexec_load, &[0, 0, 0, 0], Errno::EPERM),
    (Sysno::clone, &[0x1000_0000 | CLONE_FS], Errno::EPERM), // EINVAL: NEWUSER goes without FS
    (Sysno::clone, &[0x0002_0000 | CLONE_FS], Errno::EPERM), // EINVAL: NEWNS goes without FS
    (Sysno::socket, &[40, 1, 0], Errno::EPERM),              // done, or EAFNOSUPPORT
    (Sysno::socket, &[38, 5, 0], Errno::EPERM),              // done, or EAFNOSUPPORT
    (Sysno::personality, &[0x4_0000], Errno::EPERM),         // done
    (Sysno::clone3, &[0, 0], Errno::ENOSYS),                 // EINVAL
    (Sysno::file_getattr, &[-1, 0, 0, 0, 0], Errno::ENOSYS), // EINVAL, on a kernel that has it
    (Sysno::open_tree_attr, &[-1, 0, 0, 0, 0], Errno::ENOSYS), // EINVAL, on a kernel that has it
];
const CLONE_FS: i64 = 0x200;
const CLONE_SIGHAND: i64 = 0x800;

/// Calls that reach the kernel: what it says to these arguments.
const ALLOWED: [(Sysno, &[i64], i32); 10] = [
    (Sysno::getpid, &[], 0),
    (Sysno::seccomp, &[2, 0, 0], Errno::EFAULT as i32),
    (Sysno::chroot, &[0], Errno::EFAULT as i32),
    (Sysno::mknodat, &[-1, 0, 0, 0], Errno::EFAULT as i32),
    (Sysno::ptrace, &[16, 0], Errno::ESRCH as i32),
    (Sysno::process_vm_readv, &[1, 0, 0, 0, 0, 0], 0),
    (Sysno::clone, &[CLONE_SIGHAND], Errno::EINVAL as i32),
    (Sysno::socket, &[2, 1, 0], 0),
    (Sysno::personality, &[0xffff_ffff], 0),
    (Sysno::personality, &[0], 0),
];

fn word(number: i64, arguments: &[i64]) -> String {
    let words: Vec<String> = [number].iter().chain(arguments).map(i64::to_string).collect();
    words.join(",")
}

#[tokio::test]
async fn system_calls_are_filtered() {
    let node = Node::new();
    assert!(node.runtime().capabilities().contains(&capability::SECURITY_SECCOMP.to_owned()));
    let refused = REFUSED.map(|(call, arguments, error)| (call, arguments, error as i32));
    let named = refused.into_iter().chain(ALLOWED);
    let mut table: Vec<(String, i64, &[i64], i32)> = named
        .map(|(call, arguments, error)| (call.name().to_owned(), i64::from(call.id()), arguments, error))
        .collect();
    // One that no kernel has yet.
    table.push(("news".to_owned(), 511, &[], Errno::ENOSYS as i32));
    if cfg!(target_arch = "x86_64") {
        // getpid of the ABI with long registers and short pointers.
        table.push(("x32".to_owned(), 0x4000_0000 | 39, &[], Errno::EPERM as i32));
    }
    let calls: Vec<String> = table.iter().map(|(_, number, arguments, _)| word(*number, arguments)).collect();
    let mut words = vec!["syscalls"];
    words.extend(calls.iter().map(String::as_str));
    assert_eq!(node.outcome("a", &words, json!({})).await.code, 0);
    let said = node.texts(&node.key("a")).await;
    let expected = table.iter().zip(&calls);
    let wrong: Vec<_> = expected
        .zip(&said)
        .filter(|(((_, _, _, error), call), line)| **line != format!("{call} {error}"))
        .map(|(((name, ..), _), line)| format!("{name}: {line}"))
        .collect();
    assert!(wrong.is_empty() && said.len() == table.len(), "{wrong:?}");
    node.end().await;
}

#[tokio::test]
async fn a_privileged_containers_system_calls_are_its_own_business() {
    let node = Node::new();
    // As in REFUSED, with what the kernel says.
    let table: [(Sysno, &[i64], i32); 7] = [
        (Sysno::unshare, &[0], 0),
        (Sysno::setns, &[-1, 0], Errno::EBADF as i32),
        (Sysno::mount, &[0, 0, 0, 0, 0], Errno::EFAULT as i32),
        (Sysno::keyctl, &[-1], Errno::EOPNOTSUPP as i32),
        (Sysno::clone, &[0x1000_0000 | CLONE_FS], Errno::EINVAL as i32),
        (Sysno::clone3, &[0, 0], Errno::EINVAL as i32),
        (Sysno::personality, &[0x4_0000], 0),
    ];
    let calls = table.map(|(call, arguments, _)| word(i64::from(call.id()), arguments));
    let mut words = vec!["syscalls"];
    words.extend(calls.iter().map(String::as_str));
    assert_eq!(node.outcome("a", &words, json!({ "privileged": true })).await.code, 0);
    let expected: Vec<String> = calls.iter().zip(table).map(|(call, (.., error))| format!("{call} {error}")).collect();
    assert_eq!(node.texts(&node.key("a")).await, expected);
    if cfg!(target_arch = "x86_64") {
        assert_eq!(node.outcome("b", &["syscall-32"], json!({ "privileged": true })).await.code, 0);
    }
    node.end().await;
}

#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn a_32_bit_system_call_kills_the_program() {
    let node = Node::new();
    assert_eq!(node.outcome("a", &["syscall-32"], json!({})).await.code, KILLED);
    node.end().await;
}
