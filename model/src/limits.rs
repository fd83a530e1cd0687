//! Every limit on what a user may ask for, with its reason.

use std::time::Duration;

use jiff::SignedDuration;

/// Prefix of an app name: leaves room for `-`, the server's suffix and an instance number in one DNS label.
pub const MAX_APP_PREFIX: usize = 40;
/// Copies of an app on one node: a guard against a slip of the keyboard; an edge machine holds no more.
pub const MAX_INSTANCES: u32 = 64;
/// Environment variables of a spec: together with the value limit it keeps a spec far below a gRPC message.
pub const MAX_ENV: usize = 256;
/// Bytes of one environment value.
pub const MAX_ENV_VALUE: usize = 32 * 1024;
/// Command and args, in words: the kernel's own limit is far higher, a spec's need far lower.
pub const MAX_ARGS: usize = 256;
/// Bytes of one word of command or args.
pub const MAX_ARG: usize = 32 * 1024;
/// References to a node's values in one text: with names and labels of the greatest length it stays one that the kernel takes
/// as an argument.
pub const MAX_REFERENCES: usize = 64;
/// Volumes of a spec.
pub const MAX_VOLUMES: usize = 64;
/// Mapped ports and ranges of a spec.
pub const MAX_PORTS: usize = 64;
/// Mapped ports of one instance, those of ranges one by one: each one costs two descriptors and a listener.
pub const MAX_MAPPED_PORTS: usize = 512;
/// Mapped ports of all instances of an app on one node: each is told with every status of it.
pub const MAX_BOUND_PORTS: usize = 4096;
/// Bytes of a path: the kernel's PATH_MAX, which counts the terminator.
pub const MAX_PATH: usize = 4095;
/// Bytes of one segment of a path, as the kernel's NAME_MAX.
pub const MAX_PATH_SEGMENT: usize = 255;
/// Bytes of an encoded spec: it is sent to every node of a job.
pub const MAX_SPEC: usize = 512 * 1024;
/// Bytes of the full set with which a session begins: a hundred of the largest specs, far more than an edge machine runs.
pub const MAX_FULL_SET: usize = 64 * 1024 * 1024;
/// Nodes of one job.
pub const MAX_TARGETS: usize = 100_000;
/// Labels of a node.
pub const MAX_LABELS: usize = 64;
/// Smallest memory limit: below it no process starts, and the error would be hard to read.
pub const MIN_MEMORY: u64 = 4 * 1024 * 1024;

/// Deadline of a job that names none.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// Shortest deadline.
pub const MIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest deadline: fleets with nodes that are away for a weekend fit in.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long a node may be away before it is absent, when the rollout does not say: longer than an agent's restart, a
/// machine's reboot on most hardware, and the time in which a large fleet comes back to a restarted server.
pub const DEFAULT_ABSENT_AFTER: Duration = Duration::from_secs(60);
/// Shortest such time: the server looks at absent nodes once in as long, and every reconnection takes some of it.
pub const MIN_ABSENT_AFTER: Duration = Duration::from_secs(10);

/// How long an app must stay up before it counts as healthy, when the spec does not say.
pub const DEFAULT_SETTLE: Duration = Duration::from_secs(5);
/// Longest settle time.
pub const MAX_SETTLE: Duration = Duration::from_secs(600);
/// Starts before a task fails, when the spec does not say.
pub const DEFAULT_MAX_STARTS: u32 = 3;
/// Most starts before a task fails.
pub const MAX_MAX_STARTS: u32 = 100;

/// How long a program may take to end before it is killed, when the spec does not say: as Docker.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(10);
/// Longest such time: a database that writes its memory to a slow disk is done by then, and a removal does not hang for ever.
pub const MAX_GRACE: Duration = Duration::from_secs(3600);
/// From one question of a probe to the next, when the probe does not say.
pub const DEFAULT_PROBE_PERIOD: Duration = Duration::from_secs(10);
/// Shortest period of a probe: an edge machine has better things to do.
pub const MIN_PROBE_PERIOD: Duration = Duration::from_secs(1);
/// Longest period of a probe, and the longest delay before its first question.
pub const MAX_PROBE_PERIOD: Duration = Duration::from_secs(3600);
/// How long an answer to a probe may take, when the probe does not say.
pub const DEFAULT_PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Shortest such time: what is busy for a moment is not dead.
pub const MIN_PROBE_TIMEOUT: Duration = Duration::from_millis(100);
/// Longest such time: a question that is open takes one of the node's few places.
pub const MAX_PROBE_TIMEOUT: Duration = Duration::from_secs(60);
/// Successes of a probe in a row that make up for failures, when the probe does not say.
pub const DEFAULT_PROBE_SUCCESSES: u32 = 1;
/// Failures of a probe in a row that count, when the probe does not say.
pub const DEFAULT_PROBE_FAILURES: u32 = 3;
/// Most answers in a row that a probe may ask for.
pub const MAX_PROBE_THRESHOLD: u32 = 100;
/// Bytes of a probe's path with its query: what servers take in a request's first line is not much more.
pub const MAX_PROBE_PATH: usize = 2048;
/// Bytes of a DNS name, as the DNS has it: of a host that a probe asks, an alias, a domain that is searched.
pub const MAX_DNS_NAME: usize = 253;
/// Headers of a probe.
pub const MAX_PROBE_HEADERS: usize = 32;
/// Bytes of the name of a probe's header.
pub const MAX_PROBE_HEADER_NAME: usize = 128;
/// Words of a probe's command: a program and some arguments.
pub const MAX_PROBE_COMMAND_WORDS: usize = 64;
/// Bytes of a probe's command: room for a script in one of its words, and not for a program.
pub const MAX_PROBE_COMMAND: usize = 16 * 1024;
/// Bytes of the command line of a person's command, with an end for each word: the audit log has all of it.
pub const MAX_EXEC_COMMAND: usize = 4096;
/// Bytes of a piece of what a person's command writes, as an agent sends it.
pub const MAX_CHANNEL_PIECE: usize = 16 * 1024;
/// Bytes of the value of a probe's header.
pub const MAX_PROBE_HEADER_VALUE: usize = 4096;

/// Specs of a job, those that retries brought included: each is kept for as long as a task or an app is made of it. Beyond, the
/// oldest goes that nothing is made of, but for the first.
pub const MAX_JOB_SPECS: usize = 16;

/// Events kept of a task's past: enough to see what happened, and bounded under any number of retries.
pub const MAX_TASK_HISTORY: usize = 16;

/// Items of a page when the request does not say.
pub const DEFAULT_PAGE: usize = 50;
/// Most items of a page.
pub const MAX_PAGE: usize = 1000;

/// Lifetime of an enrolment token when the request does not say.
pub const DEFAULT_TOKEN_TTL: Duration = Duration::from_secs(3600);
/// Longest lifetime of an enrolment token.
pub const MAX_TOKEN_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

/// Machines that may enrol with one token: a large site is rolled out with one, and one that leaks does not fill the fleet.
pub const MAX_TOKEN_USES: u32 = 10_000;
/// Enrolment tokens that are good at once: one for each of the machines of a large roll-out.
pub const MAX_TOKENS: u32 = 100_000;

/// Life of a user's certificates when the request does not say, and the longest.
pub const DEFAULT_USER_TTL: Duration = Duration::from_secs(365 * 24 * 3600);
/// Users, those included that were revoked and whose certificates have not expired: they are kept in memory.
pub const MAX_USERS: u32 = 10_000;
/// Entries of the audit log: a call every half minute for a year, in some 400 MB.
pub const MAX_AUDIT_ENTRIES: u64 = 1_000_000;
/// Events kept of an app on a node: what happens again is counted with what it repeats, so that this is much trouble.
pub const MAX_APP_EVENTS: usize = 100;
/// Events kept of all apps on all nodes together, in some 150 MB; those go first that last happened longest ago.
pub const MAX_ALL_APP_EVENTS: u64 = 500_000;
/// Bytes of an event's sentence: what happened is said at its beginning.
pub const MAX_EVENT_MESSAGE: usize = 512;

/// Bytes kept of a sentence that an agent reports: it is stored with every attempt of every task.
pub const MAX_MESSAGE: usize = 2048;
/// Network interfaces kept of what an agent says of its machine: an edge machine has few, and the rest of a machine
/// full of virtual ones is of no use as a `host_interface`.
pub const MAX_INTERFACES: usize = 256;
/// Addresses kept of one network interface.
pub const MAX_ADDRESSES: usize = 64;
/// Rules of a node for host paths, its own and its settings' together: a list written by hand. Of one with more none are told.
pub const MAX_HOST_PATH_RULES: usize = 256;
/// Instances of a node of which it is told what they use: more than any runs, at some 100 bytes each in the server's memory.
pub const MAX_MEASURED_INSTANCES: usize = 1000;
/// How far a node's clock may be from the server's before people are warned: far more than a message takes, and what both doctors
/// allow.
pub const MAX_CLOCK_SKEW: SignedDuration = SignedDuration::from_secs(5);
/// Per cent of a node's disk that may be in use before people are warned: images are removed from less on, and did not help.
pub const MAX_DISK_USE: u64 = 90;
/// Capabilities kept of what an agent says.
pub const MAX_CAPABILITIES: usize = 64;
/// Bytes of the name of an environment variable.
pub const MAX_ENV_NAME: usize = 256;
/// Smallest CPU limit, in thousandths: the kernel takes no quota below 1 ms of its period of 100 ms.
pub const MIN_CPU: u32 = 10;
/// Bytes of the name or number of a user or group, as Linux has it.
pub const MAX_LOGIN: usize = 32;
/// Names of one list of capabilities: all that there are, with the word for all of them.
pub const MAX_CAPABILITY_NAMES: usize = 42;
/// Fewest processes and threads of an instance: runtimes need some themselves while they make a container.
pub const MIN_PIDS: u32 = 16;
/// Most processes and threads of an instance: the kernel's own limit for a whole machine.
pub const MAX_PIDS: u32 = 4_194_304;
/// Bytes of /dev/shm where the spec does not say: as Docker.
pub const DEFAULT_SHM_SIZE: u64 = 64 * 1024 * 1024;
/// Bytes after which a file of output is put aside, when the spec does not say: four of them per instance fit on a small disk.
pub const DEFAULT_LOG_SIZE: u64 = 8 * 1024 * 1024;
/// Smallest such file: some lines of the greatest length.
pub const MIN_LOG_SIZE: u64 = 64 * 1024;
/// Largest such file: it is looked through as a whole where the newest lines of it are asked for.
pub const MAX_LOG_SIZE: u64 = 256 * 1024 * 1024;
/// Files of output kept of each instance, the one that is written included, when the spec does not say.
pub const DEFAULT_LOG_FILES: u32 = 4;
/// Most such files.
pub const MAX_LOG_FILES: u32 = 16;
/// Bytes of output that an app may keep on a node, all its instances together: what an edge machine can spare.
pub const MAX_APP_LOGS: u64 = 4 * 1024 * 1024 * 1024;
/// How long an image that was fetched ahead is kept from being removed, when the job does not say: until the next night's work.
pub const DEFAULT_KEEP_FOR: Duration = Duration::from_secs(24 * 3600);
/// Longest such time: what was not used by then is not going to be.
pub const MAX_KEEP_FOR: Duration = Duration::from_secs(90 * 24 * 3600);
/// Smallest directory in memory: one page.
pub const MIN_MEMORY_DIR: u64 = 4096;
/// Accelerators of an instance: more than fit into a machine.
pub const MAX_ACCELERATORS: u32 = 64;
/// Bytes of the kind of an accelerator.
pub const MAX_ACCELERATOR_KIND: usize = 128;
/// Kinds and models of accelerators kept of what an agent says of its machine: machines have one or two.
pub const MAX_STOCKS: usize = 32;
/// Devices of a spec: each one is a node in every instance.
pub const MAX_DEVICES: usize = 64;
/// Entries of `host_aliases` in a spec: whoever needs more runs a name server.
pub const MAX_HOST_ALIASES: usize = 64;
/// Names of one entry of `host_aliases`: they become one line, of which resolvers read some hundred bytes at least.
pub const MAX_ALIAS_NAMES: usize = 32;
/// Name servers of a spec: resolvers of the C libraries ask no more.
pub const MAX_NAMESERVERS: usize = 3;
/// Domains in which short names are looked up: as Kubernetes.
pub const MAX_DNS_SEARCHES: usize = 32;
/// Options of the resolver in a spec: more than there are.
pub const MAX_DNS_OPTIONS: usize = 32;
/// Bytes of the name or value of an option of the resolver.
pub const MAX_DNS_OPTION: usize = 63;
/// Bytes of the registry that a credential is for: a host name and a repository of the greatest length.
pub const MAX_REGISTRY: usize = 512;
/// Bytes of a registry's user name.
pub const MAX_USERNAME: usize = 255;
/// Bytes of a registry's password: tokens of cloud registries are long.
pub const MAX_PASSWORD: usize = 16 * 1024;
/// Bytes of the authorities that a credential brings: a handful of certificates.
pub const MAX_CA_PEM: usize = 64 * 1024;
/// Registry credentials of a server: all are looked at when an image is pulled, and a fleet has a few.
pub const MAX_REGISTRY_CREDENTIALS: usize = 1000;
/// Keys of a config map or a secret: a handful of settings or files.
pub const MAX_CONFIGURATION_KEYS: usize = 128;
/// Characters of a key of a config map or a secret.
pub const MAX_CONFIGURATION_KEY: usize = 128;
/// Bytes of a config map or a secret, keys and values together: what belongs into an image or onto a disk is larger.
pub const MAX_CONFIGURATION: usize = 1024 * 1024;
/// Versions of templates in all, each variant by itself: as many as people look through, with half a gigabyte of specs at most.
pub const MAX_TEMPLATES: usize = 1000;
/// Variants of one version of a template: there are not more architectures that anybody deploys to.
pub const MAX_TEMPLATE_VARIANTS: usize = 16;
/// Aliases of all templates together.
pub const MAX_TEMPLATE_ALIASES: usize = 1000;
/// Characters of a template's version, as of a label's value.
pub const MAX_TEMPLATE_VERSION: usize = 63;
/// Bytes of a template's description: it is for people, and in every list.
pub const MAX_TEMPLATE_DESCRIPTION: usize = 1024;
/// Tags of a template.
pub const MAX_TEMPLATE_TAGS: usize = 16;
/// Characters of the name of a CPU architecture: OCI's longest has eight.
pub const MAX_ARCHITECTURE: usize = 32;
/// Config maps of a server, and as many secrets: with each at its largest the database is 2 GiB larger.
pub const MAX_CONFIGURATIONS: usize = 1000;
/// Config maps and secrets that one spec takes from.
pub const MAX_APP_CONFIGURATIONS: usize = 32;
/// Bytes that an app takes from config maps and secrets: they reach its node in one message.
pub const MAX_APP_CONFIGURATION: usize = 3 * 1024 * 1024;
/// Entries of `env_from` in a spec.
pub const MAX_ENV_FROM: usize = 32;
