//! Everything that is wrong, told at once.

use std::fmt;

/// Every mistake in a configuration, each a sentence that begins with where it is.
#[derive(Debug, Default)]
pub struct Mistakes(pub Vec<String>);

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [only] => f.write_str(only),
            all => {
                write!(f, "{} mistakes in the configuration:", all.len())?;
                all.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
            }
        }
    }
}
