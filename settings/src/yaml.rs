//! How mistakes in YAML are worded.

use std::borrow::Cow;

/// What is wrong, without the place, which callers put in front of it in a form of their own.
#[must_use]
pub fn sentence(error: &serde_saphyr::Error) -> String {
    error.without_snippet().render_with_formatter(&Sentence)
}

/// Words the errors of the YAML library without the place, which stands in front of the sentence.
struct Sentence;

impl serde_saphyr::Localizer for Sentence {
    fn attach_location<'a>(&self, base: Cow<'a, str>, _: serde_saphyr::Location) -> Cow<'a, str> {
        base
    }
}

impl serde_saphyr::MessageFormatter for Sentence {
    fn localizer(&self) -> &dyn serde_saphyr::Localizer {
        self
    }

    fn format_message<'a>(&self, error: &'a serde_saphyr::Error) -> Cow<'a, str> {
        serde_saphyr::UserMessageFormatter.format_message(error)
    }
}
