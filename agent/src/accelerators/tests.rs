use std::fs;

use longshore_model::accelerator::Stock;
use longshore_model::spec::{AcceleratorQuota, ImageSource};

use super::*;

/// A machine's root directory with these files in it.
fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

fn inventory(root: &tempfile::TempDir) -> Inventory {
    let cdi = vec![root.path().join("etc/cdi"), root.path().join("run/cdi")];
    inventory::discover(&Sources { root: Some(root.path().to_owned()), cdi, described: Vec::new() })
}

fn names(inventory: &Inventory) -> Vec<&str> {
    inventory.accelerators.iter().map(|one| one.unit.id.as_str()).collect()
}

fn information(minor: u32, model: &str, uuid: &str) -> String {
    format!("Model: \t\t {model}\nIRQ:   \t\t 82\nGPU UUID: \t {uuid}\nDevice Minor: \t {minor}\nGPU Excluded:\t No\n")
}

#[test]
fn gpus_and_npus_are_found_by_their_devices() {
    let root = machine(&[
        ("dev/nvidia0", ""),
        ("dev/nvidia10", ""),
        ("dev/nvidia2", ""),
        ("dev/nvidiactl", ""),
        ("dev/nvidia-uvm", ""),
        ("dev/nvidia-caps/nvidia-cap1", ""),
        ("dev/nvidia+1", ""),
        ("dev/nvidia99999999999", ""),
        ("proc/driver/nvidia/gpus/0000:01:00.0/information", &information(2, "Tesla T4", "GPU-a1")),
        ("proc/driver/nvidia/gpus/0000:02:00.0/information", &information(0, "A2", "GPU-????????-????")),
        ("proc/driver/nvidia/gpus/0000:03:00.0/information", "nonsense"),
        ("dev/davinci0", ""),
        ("dev/davinci_manager", ""),
        ("dev/devmm_svm", ""),
        ("usr/local/Ascend/driver/version.info", ""),
    ]);
    let found = inventory(&root);
    let expected = ["nvidia.com/gpu=0", "nvidia.com/gpu=2", "nvidia.com/gpu=10", "huawei.com/npu=0"];
    assert_eq!((names(&found), &found.complaints), (expected.to_vec(), &Vec::<String>::new()));
    let models: Vec<&str> = found.accelerators.iter().map(|one| one.unit.model.as_str()).collect();
    assert_eq!(models, ["A2", "Tesla T4", "", ""]);
    let targets = |at: usize| -> Vec<&str> {
        found.accelerators[at].edits.devices.iter().map(|device| device.target.as_str()).collect()
    };
    assert_eq!(targets(1), ["/dev/nvidia2", "/dev/nvidiactl", "/dev/nvidia-uvm"]);
    assert_eq!(targets(3), ["/dev/davinci0", "/dev/davinci_manager", "/dev/devmm_svm"]);
    let env = |at: usize| {
        let (name, value) = &found.accelerators[at].edits.env[0];
        format!("{name}={value}")
    };
    assert_eq!(
        [0, 1, 2].map(env),
        ["NVIDIA_VISIBLE_DEVICES=0", "NVIDIA_VISIBLE_DEVICES=GPU-a1", "NVIDIA_VISIBLE_DEVICES=10"]
    );
    assert_eq!(env(3), "ASCEND_VISIBLE_DEVICES=0");
    let mount = &found.accelerators[3].edits.mounts[0];
    assert_eq!((mount.target.as_str(), mount.read_only), ("/usr/local/Ascend/driver", true));
    assert!(names(&inventory(&machine(&[]))).is_empty());
}

/// A spec of CDI as NVIDIA's own tool makes them, without its hooks.
fn nvidia_cdi(root: &Path) -> String {
    let dev = root.join("dev").display().to_string();
    format!(
        "---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
  - name: '0'
    containerEdits: {{ deviceNodes: [{{ path: /dev/nvidia0, hostPath: {dev}/nvidia0 }}] }}
  - name: '1'
    containerEdits: {{ deviceNodes: [{{ path: /dev/nvidia1, hostPath: {dev}/nvidia1 }}] }}
  - name: GPU-a1
    containerEdits: {{ deviceNodes: [{{ path: /dev/nvidia1, hostPath: {dev}/nvidia1 }}] }}
  - name: all
    containerEdits:
      deviceNodes:
        - {{ path: /dev/nvidia0, hostPath: {dev}/nvidia0 }}
        - {{ path: /dev/nvidia1, hostPath: {dev}/nvidia1 }}
containerEdits:
  env: [NVIDIA_VISIBLE_DEVICES=void]
  deviceNodes: [{{ path: /dev/nvidiactl, hostPath: {dev}/nvidiactl }}]
  mounts:
    - {{ hostPath: /usr/lib/libcuda.so.1, containerPath: /usr/lib/libcuda.so.1, options: [ro, nosuid, nodev, bind] }}
"
    )
}

#[test]
fn a_spec_of_cdi_goes_before_what_the_agent_finds_and_names_each_device_once() {
    let root = machine(&[
        ("dev/nvidia0", ""),
        ("dev/nvidia1", ""),
        ("dev/nvidia2", ""),
        ("proc/driver/nvidia/gpus/0000:01:00.0/information", &information(1, "Tesla T4", "GPU-a1")),
        ("dev/davinci0", ""),
    ]);
    fs::create_dir_all(root.path().join("etc/cdi")).unwrap();
    fs::write(root.path().join("etc/cdi/nvidia.yaml"), nvidia_cdi(root.path())).unwrap();
    let found = inventory(&root);
    assert_eq!(names(&found), ["nvidia.com/gpu=0", "nvidia.com/gpu=1", "huawei.com/npu=0"], "{:?}", found.complaints);
    assert_eq!(found.accelerators[1].unit.model, "Tesla T4", "the driver says it, and CDI does not");
    let edits = &found.accelerators[1].edits;
    let targets: Vec<&str> = edits.devices.iter().map(|device| device.target.as_str()).collect();
    assert_eq!((targets, edits.mounts[0].read_only), (vec!["/dev/nvidia1", "/dev/nvidiactl"], true));
}

#[test]
fn what_cannot_be_given_is_not_offered_and_told() {
    let device = |name: &str, edits: &str| format!(r#"{{ "name": "{name}", "containerEdits": {{ {edits} }} }}"#);
    let spec = |kind: &str, version: &str, devices: &[String]| {
        format!(r#"{{ "cdiVersion": "{version}", "kind": "{kind}", "devices": [{}] }}"#, devices.join(", "))
    };
    let node = r#""deviceNodes": [{ "path": "/dev/x" }]"#;
    let devices = [
        device("good", node),
        device("hooks", r#""hooks": [{ "hookName": "createContainer", "path": "/bin/x" }]"#),
        device("gids", r#""additionalGids": [4]"#),
        device("rdt", r#""intelRdt": { "closID": "x" }"#),
        device("net", r#""netDevices": [{ "hostInterfaceName": "eth0" }]"#),
        device("outside", r#""deviceNodes": [{ "path": "/etc/x" }]"#),
        device("upwards", r#""deviceNodes": [{ "path": "/dev/x", "hostPath": "/dev/../etc/x" }]"#),
        device("mount", r#""mounts": [{ "hostPath": "/x", "containerPath": "/" }]"#),
        device("tmpfs", r#""mounts": [{ "hostPath": "/x", "containerPath": "/x", "type": "tmpfs" }]"#),
        device("env", r#""env": ["NOTHING"]"#),
        device("bad name", node),
    ];
    let root = machine(&[
        ("etc/cdi/a.json", &spec("a.b/c", "0.6.0", &devices)),
        ("etc/cdi/b.json", &spec("npu", "0.6.0", &[])),
        ("etc/cdi/c.json", &spec("a.b/d", "2.0.0", &[])),
        ("etc/cdi/d.json", "{"),
        ("etc/cdi/e.yaml", "- 1"),
        ("etc/cdi/f.txt", "no spec"),
        ("etc/cdi/g.json", &spec("a.b/twice", "0.6.0", &[device("0", node)])),
        ("etc/cdi/h.json", &spec("a.b/twice", "0.6.0", &[device("0", node)])),
    ]);
    let found = inventory(&root);
    assert_eq!(names(&found), ["a.b/c=good"]);
    assert_eq!(found.complaints.len(), 10 + 4 + 1, "{:#?}", found.complaints);
    let hooks = found.complaints.iter().find(|complaint| complaint.contains("a.b/c=hooks")).unwrap();
    assert_eq!(
        hooks,
        "the accelerator a.b/c=hooks cannot be used: its CDI spec has hooks, which this agent does not run"
    );
    let later = spec("a.b/twice", "0.6.0", &[device("0", r#""deviceNodes": [{ "path": "/dev/y" }]"#)]);
    fs::create_dir_all(root.path().join("run/cdi")).unwrap();
    fs::write(root.path().join("run/cdi/a.json"), later).unwrap();
    assert_eq!(names(&inventory(&root)), ["a.b/c=good", "a.b/twice=0"], "a later directory goes first");
}

fn table(root: &tempfile::TempDir) -> AcceleratorTable {
    AcceleratorTable::new(Sources { root: Some(root.path().to_owned()), ..Sources::default() })
}

fn asking(count: u32, instances: u32) -> AppSpec {
    let accelerators = vec![AcceleratorQuota { kind: "nvidia.com/gpu".to_owned(), count }];
    AppSpec { accelerators, instances, ..AppSpec::new("a", ImageSource::Reference("a:1".to_owned())) }
}

#[test]
fn the_table_gives_each_to_one_app_and_tells_what_is_free() {
    let root = machine(&[("dev/nvidia0", ""), ("dev/nvidia1", "")]);
    let table = table(&root);
    let mut changes = table.changes();
    let free = |changes: &mut watch::Receiver<Vec<Stock>>| -> u32 {
        changes.borrow_and_update().iter().map(|one| one.free).sum()
    };
    assert_eq!(free(&mut changes), 2);
    let app = |name: &str| AppName::parse(name).unwrap();
    assert_eq!(table.assign(&app("a"), &asking(1, 1)).unwrap(), ["nvidia.com/gpu=0"]);
    assert!(changes.has_changed().unwrap());
    assert_eq!(table.assign(&app("a"), &asking(1, 1)).unwrap(), ["nvidia.com/gpu=0"], "it has it already");
    let error = table.assign(&app("b"), &asking(2, 1)).unwrap_err();
    assert_eq!(error.reason(), FailureReason::InsufficientAccelerators);
    fs::write(root.path().join("dev/nvidia2"), "").unwrap();
    assert_eq!(
        table.assign(&app("b"), &asking(2, 1)).unwrap(),
        ["nvidia.com/gpu=1", "nvidia.com/gpu=2"],
        "one came up"
    );
    assert_eq!(free(&mut changes), 0);
    let without = AppSpec { accelerators: Vec::new(), ..asking(1, 1) };
    assert_eq!(table.assign(&app("b"), &without).unwrap().len(), 2, "what it had stays until it is given up");
    table.release(&app("b"));
    assert_eq!(free(&mut changes), 2);
}

#[test]
fn a_container_gets_what_its_accelerators_have_in_common_once() {
    let mount = MountEdit { source: "/proc/self/root/dev/null".into(), target: "/opt/x".to_owned(), read_only: true };
    let edits = |name: &str, visible: &str| Edits {
        devices: vec![
            DeviceEdit { source: "/dev/null".into(), target: name.to_owned(), permissions: "rw".to_owned() },
            DeviceEdit { source: "/dev/zero".into(), target: "/dev/manager".to_owned(), permissions: "r".to_owned() },
        ],
        mounts: vec![mount.clone()],
        env: vec![
            ("VISIBLE".to_owned(), visible.to_owned()),
            ("HOME".to_owned(), "/opt/x".to_owned()),
            ("CAPS".to_owned(), "a,b".to_owned()),
        ],
    };
    let mut attached = Attached::default();
    attached.add("a", edits("/dev/a", "0")).unwrap();
    attached.add("b", edits("/dev/b", "1")).unwrap();
    let devices: Vec<_> = attached.devices.iter().map(|one| (one.target.as_str(), one.minor)).collect();
    assert_eq!(devices, [("/dev/a", 3), ("/dev/manager", 5), ("/dev/b", 3)]);
    assert_eq!((attached.mounts.len(), attached.mounts[0].source.as_path()), (1, Path::new("/dev/null")));
    let env: Vec<String> = attached.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(env, ["VISIBLE=0,1", "HOME=/opt/x", "CAPS=a,b"]);
    for (source, words) in [("/dev/no-such-device", "does not exist"), ("/dev/shm", "is no device")] {
        let devices =
            vec![DeviceEdit { source: source.into(), target: "/dev/x".to_owned(), permissions: "rw".to_owned() }];
        let error = Attached::default().add("v/c=0", Edits { devices, ..Edits::default() }).unwrap_err();
        assert_eq!(error.reason, FailureReason::DeviceUnavailable);
        assert!(
            error.message.starts_with("The accelerator v/c=0 cannot be used") && error.message.contains(words),
            "{error}"
        );
    }
}
