//! Accelerators that the agent's settings tell of, in a file of their own.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use longshore_model::accelerator::{Unit, is_kind};
use serde::Deserialize;

use super::cdi::ContainerEdits;
use super::inventory::{Accelerator, Edits};

/// Bytes of the file: far more than a machine's accelerators need.
const MAX_FILE: u64 = 1024 * 1024;
/// Accelerators of one entry.
const MAX_COUNT: u32 = 256;
/// Stands for an accelerator's number, from 0.
const INDEX: &str = "{index}";

/// Accelerators of one kind that are alike but for their number.
#[derive(Clone, Debug)]
pub struct Described {
    kind: String,
    model: String,
    /// Of each accelerator, by its number.
    edits: Vec<Edits>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    accelerators: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    kind: String,
    #[serde(default)]
    model: String,
    #[serde(default = "one")]
    count: u32,
    container_edits: ContainerEdits,
}

fn one() -> u32 {
    1
}

/// What is wrong with the text, and where.
fn explain(error: &serde_saphyr::Error) -> String {
    let sentence = longshore_settings::yaml::sentence(error);
    match error.location() {
        Some(place) => format!("line {}, column {}: {sentence}", place.line(), place.column()),
        None => sentence,
    }
}

impl Described {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// A sentence about what is wrong with it.
    pub fn read(path: &Path) -> Result<Vec<Self>, String> {
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
        read.map_err(|error| error.to_string())?;
        if text.len() as u64 > MAX_FILE {
            return Err(format!("is larger than {MAX_FILE} bytes"));
        }
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Vec<Self>, String> {
        let document: Document = serde_saphyr::from_str(text).map_err(|error| explain(&error))?;
        let mut found: Vec<Self> = Vec::new();
        for (index, entry) in document.accelerators.into_iter().enumerate() {
            let place = |field: &str| format!("accelerators[{index}].{field}");
            if !is_kind(&entry.kind) {
                return Err(format!("{} {:?} is no kind such as example.com/npu", place("kind"), entry.kind));
            }
            if found.iter().any(|known| known.kind == entry.kind) {
                return Err(format!("{} {:?} is there twice", place("kind"), entry.kind));
            }
            if !(1..=MAX_COUNT).contains(&entry.count) {
                return Err(format!("{} is {}; it must be from 1 to {MAX_COUNT}", place("count"), entry.count));
            }
            let edits = (0..entry.count).map(|number| {
                let filled = entry.container_edits.with(|text| text.replace(INDEX, &number.to_string()));
                filled.read().map_err(|why| format!("{} {why}", place("containerEdits")))
            });
            let edits = edits.collect::<Result<Vec<_>, _>>()?;
            found.push(Self { kind: entry.kind, model: entry.model, edits });
        }
        Ok(found)
    }

    /// The accelerators.
    pub(super) fn accelerators(&self) -> impl Iterator<Item = Accelerator> + '_ {
        self.edits.iter().enumerate().map(|(number, edits)| Accelerator {
            unit: Unit { id: format!("{}={number}", self.kind), model: self.model.clone() },
            edits: edits.clone(),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn each_accelerator_has_its_number() {
        let text = "
accelerators:
  - kind: example.com/npu
    model: Edge 200
    count: 2
    containerEdits:
      deviceNodes: [{ path: '/dev/npu{index}' }, { path: /dev/npu_manager, permissions: rw }]
      mounts: [{ hostPath: /opt/npu, containerPath: /opt/npu, options: [ro] }]
      env: ['NPU_VISIBLE_DEVICES={index}']
";
        let found: Vec<Accelerator> = Described::parse(text).unwrap()[0].accelerators().collect();
        let second = &found[1];
        assert_eq!(
            (found.len(), second.unit.id.as_str(), second.unit.model.as_str()),
            (2, "example.com/npu=1", "Edge 200")
        );
        let paths: Vec<&str> = second.edits.devices.iter().map(|device| device.target.as_str()).collect();
        assert_eq!(paths, ["/dev/npu1", "/dev/npu_manager"]);
        assert_eq!(second.edits.env, [("NPU_VISIBLE_DEVICES".to_owned(), "1".to_owned())]);
        assert!(second.edits.mounts[0].read_only);
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        let entry = |kind: &str, rest: &str| format!("  - {{ kind: {kind}, {rest} }}\n");
        let edits = "containerEdits: { deviceNodes: [{ path: /dev/x }] }";
        for (entries, expected) in [
            (entry("npu", edits), "accelerators[0].kind \"npu\" is no kind"),
            (entry("a.b/c", edits).repeat(2), "accelerators[1].kind \"a.b/c\" is there twice"),
            (entry("a.b/c", &format!("count: 0, {edits}")), "accelerators[0].count is 0"),
            (entry("a.b/c", &format!("count: 257, {edits}")), "accelerators[0].count is 257"),
            (entry("a.b/c", "containerEdits: { deviceNodes: [{ path: /etc/x }] }"), "accelerators[0].containerEdits"),
            (entry("a.b/c", "containerEdits: { hooks: [{ hookName: prestart, path: /x }] }"), "has hooks"),
            (entry("a.b/c", &format!("modle: x, {edits}")), "modle"),
            (entry("a.b/c", "count: 1"), "containerEdits"),
        ] {
            let error = Described::parse(&format!("accelerators:\n{entries}")).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(Described::parse("").is_err());
        assert!(Described::read(Path::new("/no/such/file")).is_err());
    }
}
