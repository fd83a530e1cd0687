#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]

use longshore_model::linux::CapabilitySet;
use seccompiler::sock_filter;

use super::*;

const ARCHITECTURES: [(TargetArch, u32); 2] = [(TargetArch::x86_64, 0xc000_003e), (TargetArch::aarch64, 0xc000_00b7)];
const KERNEL: (u32, u32) = (6, 1);

/// What a filter says of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Allowed,
    Refused(Errno),
    Killed,
}
use Verdict::{Allowed, Killed, Refused};

/// Interprets a program as the kernel does, as far as programs of filters go; returns its action.
fn run(program: &[sock_filter], audit: u32, number: u32, argument: u64) -> u32 {
    let [low, high] = [argument as u32, (argument >> 32) as u32];
    let (mut at, mut value) = (0, 0);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        let mut skip = 0;
        let jump = |holds: bool| usize::from(if holds { jt } else { jf });
        match code {
            0x20 => {
                value = match k {
                    0 => number,
                    4 => audit,
                    16 => low,
                    20 => high,
                    other => panic!("load from {other}"),
                }
            }
            0x54 => value &= k,
            0x05 => skip = k as usize,
            0x15 => skip = jump(value == k),
            0x25 => skip = jump(value > k),
            0x35 => skip = jump(value >= k),
            0x06 => return k,
            other => panic!("instruction {other:#x}"),
        }
        at += 1 + skip;
    }
}

impl Filter {
    /// As the kernel: the newest first, and of equal actions the first one.
    fn verdict(&self, audit: u32, number: u32, argument: u64) -> Verdict {
        let actions = [&self.unknown, &self.profile].map(|program| run(program, audit, number, argument));
        let strictness = |action: u32| (action & 0xffff_0000) as i32;
        let strictest = if strictness(actions[1]) < strictness(actions[0]) { actions[1] } else { actions[0] };
        match strictest & 0xffff_0000 {
            0x7fff_0000 => Allowed,
            0x0005_0000 => Refused(Errno::from_raw((strictest & 0xffff) as i32)),
            0x8000_0000 => Killed,
            other => panic!("action {other:#x}"),
        }
    }
}

fn filter(architecture: TargetArch, capabilities: &[Capability], kernel: (u32, u32)) -> Filter {
    Filter::compile(architecture, &capabilities.iter().copied().collect(), kernel).unwrap()
}

fn ordinary(architecture: TargetArch) -> Filter {
    Filter::compile(architecture, &super::super::privileges::Bounding(u64::MAX).of(CapabilitySet::ORDINARY), KERNEL)
        .unwrap()
}

#[test]
fn every_name_of_the_profile_is_a_system_call_somewhere_and_stands_there_once() {
    let [x86, arm] = [TargetArch::x86_64, TargetArch::aarch64].map(numbers);
    let gated = profile::WITH_CAPABILITY.map(|(_, names)| names);
    let single = [profile::CLONE, profile::CLONE3, profile::SOCKET, profile::PERSONALITY];
    let lists: Vec<&str> = profile::ALLOWED.into_iter().chain([profile::ALLOWED_X86_64, profile::TRACING]).collect();
    for name in lists.iter().chain(&gated).chain(&single).flat_map(|names| names.split_whitespace()) {
        assert!(x86.contains_key(name) || arm.contains_key(name), "{name}");
    }
    let mut seen = HashSet::new();
    for name in lists.iter().flat_map(|names| names.split_whitespace()) {
        assert!(seen.insert(name), "{name} twice");
        assert!(!single.contains(&name), "{name} has a rule of its own");
    }
}

#[test]
fn every_architecture_decides_alike() {
    let table: [(&str, u64, Verdict); 34] = [
        ("read", 0, Allowed),
        ("execve", 0, Allowed),
        ("openat", 0, Allowed),
        ("chroot", 0, Allowed),
        ("prctl", 0, Allowed),
        ("seccomp", 0, Allowed),
        ("ptrace", 0, Allowed),
        ("removexattrat", 0, Allowed),
        ("clone", 0x11, Allowed),
        ("clone", 0x3d0f00, Allowed),
        ("clone", 0x1000_0000, Refused(Errno::EPERM)),
        ("clone", 0x0002_0011, Refused(Errno::EPERM)),
        ("clone3", 0, Refused(Errno::ENOSYS)),
        ("unshare", 0, Refused(Errno::EPERM)),
        ("mount", 0, Refused(Errno::EPERM)),
        ("setns", 0, Refused(Errno::EPERM)),
        ("keyctl", 0, Refused(Errno::EPERM)),
        ("bpf", 0, Refused(Errno::EPERM)),
        ("perf_event_open", 0, Refused(Errno::EPERM)),
        ("io_uring_setup", 0, Refused(Errno::EPERM)),
        ("userfaultfd", 0, Refused(Errno::EPERM)),
        ("init_module", 0, Refused(Errno::EPERM)),
        ("kexec_load", 0, Refused(Errno::EPERM)),
        ("open_by_handle_at", 0, Refused(Errno::EPERM)),
        ("open_tree_attr", 0, Refused(Errno::ENOSYS)),
        ("file_setattr", 0, Refused(Errno::ENOSYS)),
        ("socket", 1, Allowed),
        ("socket", 39, Allowed),
        ("socket", 38, Refused(Errno::EPERM)),
        ("socket", 40, Refused(Errno::EPERM)),
        ("socket", 0x1_0000_0028, Refused(Errno::EPERM)),
        ("personality", 0xffff_ffff, Allowed),
        ("personality", 0x2_0008, Allowed),
        ("personality", 0x4_0000, Refused(Errno::EPERM)),
    ];
    for (architecture, audit) in ARCHITECTURES {
        let (filter, numbers) = (ordinary(architecture), numbers(architecture));
        for (name, argument, verdict) in table {
            let number = u32::try_from(numbers[name]).unwrap();
            assert_eq!(filter.verdict(audit, number, argument), verdict, "{name} {argument:#x} on {architecture:?}");
        }
        for number in [467, 470, 511] {
            assert_eq!(filter.verdict(audit, number, 0), Refused(Errno::ENOSYS), "{number} is news");
        }
    }
    let number = |architecture, name| u32::try_from(numbers(architecture)[name]).unwrap();
    let (x86, arm) = (ordinary(TargetArch::x86_64), ordinary(TargetArch::aarch64));
    let (audit_x86, audit_arm) = (ARCHITECTURES[0].1, ARCHITECTURES[1].1);
    assert_eq!(x86.verdict(audit_x86, number(TargetArch::x86_64, "newfstatat"), 0), Allowed);
    assert_eq!(arm.verdict(audit_arm, number(TargetArch::aarch64, "fstatat"), 0), Allowed);
}

#[test]
fn other_abis_are_refused() {
    let [x86, arm] = ARCHITECTURES.map(|(architecture, _)| ordinary(architecture));
    let (i386, arm32, x32) = (0x4000_0003, 0x4000_0028, 0x4000_0000);
    assert_eq!(x86.verdict(i386, 20, 0), Killed);
    assert_eq!(arm.verdict(arm32, 20, 0), Killed);
    assert_eq!(x86.verdict(ARCHITECTURES[0].1, x32 | 39, 0), Refused(Errno::EPERM));
}

#[test]
fn a_capability_brings_the_calls_that_it_is_for() {
    for (architecture, audit) in ARCHITECTURES {
        let numbers = numbers(architecture);
        for (capability, names) in profile::WITH_CAPABILITY {
            let [with, without] = [&[capability][..], &[]].map(|held| filter(architecture, held, (4, 7)));
            for name in names.split_whitespace() {
                let Some(number) = numbers.get(name).map(|number| u32::try_from(*number).unwrap()) else { continue };
                let flags = profile::CLONE_NAMESPACES;
                assert_eq!(with.verdict(audit, number, flags), Allowed, "{name} with {capability}");
                assert_ne!(without.verdict(audit, number, flags), Allowed, "{name} without {capability}");
            }
        }
    }
}

#[test]
fn tracing_depends_on_the_kernel() {
    let number = u32::try_from(numbers(TargetArch::x86_64)["ptrace"]).unwrap();
    let verdict = |kernel| filter(TargetArch::x86_64, &[], kernel).verdict(ARCHITECTURES[0].1, number, 0);
    assert_eq!([(4, 7), (4, 8), (5, 0)].map(verdict), [Refused(Errno::EPERM), Allowed, Allowed]);
    let releases = ["6.18.44-fc\n", "4.8.0", "5", "", "next"].map(kernel_version);
    assert_eq!(releases, [(6, 18), (4, 8), (5, 0), (0, 0), (0, 0)]);
}
