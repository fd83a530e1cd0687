//! Paths inside a directory that will be a container's root.
//!
//! Entries of a layer name each other through symbolic links that they brought along, and must not reach beyond the
//! root by them. Nobody but the unpacker writes below the root meanwhile, so a path that was resolved stays true.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::error::ImageError;

/// Links followed in one path, as in the kernel.
const MAX_LINKS: usize = 40;

/// A directory that paths are resolved in.
#[derive(Debug)]
pub(crate) struct Root<'a> {
    path: &'a Path,
}

/// What lies at a component of a path.
pub(crate) enum Found {
    /// A directory, to be walked into.
    Directory,
    /// A link, to be followed.
    Link(PathBuf),
    /// Nothing, or something that is no directory.
    Other,
}

impl<'a> Root<'a> {
    /// The root at this path of the node.
    pub(crate) fn new(path: &'a Path) -> Self {
        Self { path }
    }

    /// The root itself.
    pub(crate) fn path(&self) -> &Path {
        self.path
    }

    /// Path of the node for a relative path inside the root, with all links but a last one resolved.
    ///
    /// Absolute links mean the root, as they will inside the container. `missing` is asked to make each parent that is
    /// not a directory.
    pub(crate) fn resolve(
        &self,
        inside: &Path,
        missing: &mut dyn FnMut(&Path) -> Result<(), ImageError>,
    ) -> Result<PathBuf, ImageError> {
        let (Some(parent), Some(name)) = (inside.parent(), inside.file_name()) else {
            return Err(escapes(inside));
        };
        let mut ahead: VecDeque<OsString> = components(parent).ok_or_else(|| escapes(inside))?;
        let mut at = self.path.to_owned();
        let mut depth = 0_usize;
        let mut links = 0;
        while let Some(next) = ahead.pop_front() {
            if next == ".." {
                if depth == 0 {
                    return Err(escapes(inside));
                }
                at.pop();
                depth -= 1;
                continue;
            }
            let here = at.join(&next);
            match look(&here).map_err(|error| ImageError::content("a layer", error))? {
                Found::Directory => {}
                Found::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(ImageError::Invalid(format!("{} leads in a circle of links", inside.display())));
                    }
                    if target.is_absolute() {
                        self.path.clone_into(&mut at);
                        depth = 0;
                    }
                    for component in link_components(&target).into_iter().rev() {
                        ahead.push_front(component);
                    }
                    continue;
                }
                Found::Other => missing(&here)?,
            }
            at = here;
            depth += 1;
        }
        Ok(at.join(name))
    }
}

/// The path of a tar entry: relative, without `.` segments; empty for the root itself. Refuses `..` and absolute paths.
pub(crate) fn entry_path(raw: &[u8]) -> Result<PathBuf, ImageError> {
    let path = Path::new(OsStr::from_bytes(raw));
    let components = components(path).ok_or_else(|| escapes(path))?;
    Ok(components.iter().collect())
}

fn escapes(path: &Path) -> ImageError {
    ImageError::Invalid(format!("a layer names {}, which is outside of the image", path.display()))
}

fn components(path: &Path) -> Option<VecDeque<OsString>> {
    let mut names = VecDeque::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push_back(name.to_owned()),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(names)
}

fn link_components(target: &Path) -> Vec<OsString> {
    target
        .components()
        .filter(|component| matches!(component, Component::Normal(_) | Component::ParentDir))
        .map(|component| component.as_os_str().to_owned())
        .collect()
}

fn look(path: &Path) -> io::Result<Found> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(Found::Directory),
        Ok(metadata) if metadata.is_symlink() => Ok(Found::Link(fs::read_link(path)?)),
        Ok(_) => Ok(Found::Other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Other),
        Err(error) => Err(error),
    }
}
