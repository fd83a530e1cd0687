//! Conversions between wire and model.
