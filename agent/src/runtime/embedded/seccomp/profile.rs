//! Which system calls an ordinary container may make: what Docker, containerd and Podman allow by default, by name.
//!
//! A name that an architecture does not have is left out there. What is in no list is refused.

use oci_spec::runtime::Capability;

/// Allowed with any arguments, one list a subject.
pub(super) const ALLOWED: [&str; 10] =
    [FILES, ATTRIBUTES, TRANSFER, WAITING, MEMORY, PROCESSES, IDENTITY, SIGNALS, SCHEDULING, EXCHANGE];

/// Finding, opening, making, renaming and removing.
const FILES: &str = "
    access chdir chmod close close_range creat dup dup2 dup3 faccessat faccessat2 fchdir fchmod fchmodat fchmodat2
    fcntl flock getcwd getdents getdents64 link linkat listmount lseek mkdir mkdirat mknod mknodat name_to_handle_at
    open openat openat2 readlink readlinkat rename renameat renameat2 rmdir statmount symlink symlinkat umask unlink
    unlinkat";
/// What is said of files. `fstatat` is the name of `newfstatat` on arm64.
const ATTRIBUTES: &str = "
    chown fchown fchownat fgetxattr flistxattr fremovexattr fsetxattr fstat fstatat fstatfs futimesat getxattr
    getxattrat lchown lgetxattr listxattr listxattrat llistxattr lremovexattr lsetxattr lstat newfstatat removexattr
    removexattrat setxattr setxattrat stat statfs statx utime utimensat utimes";
/// Reading and writing.
const TRANSFER: &str = "
    cachestat copy_file_range fadvise64 fallocate fdatasync fsync ftruncate io_cancel io_destroy io_getevents
    io_pgetevents io_setup io_submit ioctl pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readv
    sendfile splice sync sync_file_range syncfs tee truncate vmsplice write writev";
/// Waiting for descriptors, files and times.
const WAITING: &str = "
    adjtimex alarm clock_adjtime clock_getres clock_gettime clock_nanosleep epoll_create epoll_create1 epoll_ctl
    epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 fanotify_mark getitimer
    gettimeofday inotify_add_watch inotify_init inotify_init1 inotify_rm_watch nanosleep pause poll ppoll pselect6
    select setitimer time timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create
    timerfd_gettime timerfd_settime times";
/// Memory of the process itself.
const MEMORY: &str = "
    brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mprotect
    mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages";
/// Processes and threads; `clone` has its own rule.
const PROCESSES: &str = "
    execve execveat exit exit_group fork futex futex_requeue futex_wait futex_waitv futex_wake get_robust_list
    get_thread_area getcpu getpgid getpgrp getpid getppid getrlimit getrusage getsid gettid landlock_add_rule
    landlock_create_ruleset landlock_restrict_self pidfd_open prctl prlimit64 process_mrelease restart_syscall rseq
    seccomp set_robust_list set_thread_area set_tid_address setpgid setrlimit setsid sysinfo uname uretprobe vfork
    wait4 waitid";
/// Users, groups and capabilities.
const IDENTITY: &str = "
    capget capset getegid geteuid getgid getgroups getresgid getresuid getuid setfsgid setfsuid setgid setgroups
    setregid setresgid setresuid setreuid setuid";
/// Signals.
const SIGNALS: &str = "
    kill pidfd_send_signal rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_tgsigqueueinfo sigaltstack signalfd signalfd4 tgkill tkill";
/// Order and share of the processor.
const SCHEDULING: &str = "
    getpriority ioprio_get ioprio_set sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
    sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield setpriority";
/// Between processes and machines; `socket` has its own rule.
const EXCHANGE: &str = "
    accept accept4 bind connect getpeername getrandom getsockname getsockopt listen mq_getsetattr mq_notify mq_open
    mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd pipe pipe2 recvfrom recvmmsg recvmsg semctl
    semget semop semtimedop sendmmsg sendmsg sendto setsockopt shmat shmctl shmdt shmget shutdown socketpair";

/// Allowed on this architecture alone.
pub(super) const ALLOWED_X86_64: &str = "arch_prctl modify_ldt";

/// Allowed since [`TRACING_KERNEL`]: before, a traced process could go round its filter.
pub(super) const TRACING: &str = "process_vm_readv process_vm_writev ptrace";
/// See [`TRACING`].
pub(super) const TRACING_KERNEL: (u32, u32) = (4, 8);

/// Allowed to containers that have the capability, for which the kernel asks anyway.
pub(super) const WITH_CAPABILITY: [(Capability, &str); 14] = [
    (Capability::DacReadSearch, "open_by_handle_at"),
    (Capability::SysAdmin, ADMINISTRATION),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module finit_module init_module"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    (Capability::SysRawio, "ioperm iopl"),
    (Capability::SysTime, "clock_settime settimeofday"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::SysNice, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
];
const ADMINISTRATION: &str = "
    bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules
    lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname
    sethostname setns syslog umount2 unshare";

/// Makes processes. Without CAP_SYS_ADMIN it is allowed where it makes no namespace.
pub(super) const CLONE: &str = "clone";
/// Flags of `clone` that make a namespace: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET.
pub(super) const CLONE_NAMESPACES: u64 = 0x7e02_0000;
/// Makes processes too, but its flags are in memory, where no filter sees them. Without CAP_SYS_ADMIN it does not exist
/// for the container, and the C library takes `clone`.
pub(super) const CLONE3: &str = "clone3";

/// Allowed for all families but [`REFUSED_FAMILIES`].
pub(super) const SOCKET: &str = "socket";
/// AF_ALG, the kernel's cipher code, and AF_VSOCK, which leads to the hypervisor past every network namespace.
pub(super) const REFUSED_FAMILIES: [u64; 2] = [38, 40];

/// Allowed for [`PERSONALITIES`].
pub(super) const PERSONALITY: &str = "personality";
/// Linux as it is, with the 32-bit machine's name, with an old version number, with both; and asking only.
pub(super) const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
