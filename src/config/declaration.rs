//! The vocabulary for declaring the keys of a section. Each function returns one that reads a field.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::format::Format;
use super::key::KeyDefault;
use super::section_reader::SectionReader;
use super::texts;

/// A part of the configuration that has keys of its own.
pub(super) trait Section: Sized {
    fn read(keys: &mut SectionReader<'_>) -> Self;
}

/// A function that reads a field.
pub(super) trait FieldReader<T>: FnOnce(&mut SectionReader<'_>) -> T {}

impl<T, F: FnOnce(&mut SectionReader<'_>) -> T> FieldReader<T> for F {}

/// Declares a section: its struct, and how each field is read. The comment above a field documents its key, also in
/// the reference file: one sentence, without a full stop.
macro_rules! section {
    ($(#[$about:meta])* pub struct $Section:ident {
        $($(#[doc = $doc:literal])+ $field:ident: $Type:ty = $read:expr,)+
    }) => {
        $(#[$about])*
        #[derive(Debug, Clone)]
        pub struct $Section {
            $($(#[doc = $doc])+ pub $field: $Type,)+
        }

        impl Section for $Section {
            fn read(keys: &mut SectionReader<'_>) -> Self {
                Self { $($field: keys.field(stringify!($field), concat!($($doc),+), $read),)+ }
            }
        }
    };
}
pub(super) use section;

/// A key that always has a value.
pub(super) fn default<T>(text: &'static str, format: Format<T>) -> impl FieldReader<T> {
    always(KeyDefault::Value(text), format)
}

/// A key that has a default only for the endpoint `terra`; for all others it is required.
pub(super) fn default_of_terra<T>(text: &'static str, format: Format<T>) -> impl FieldReader<T> {
    always(KeyDefault::ValueOfTerra(text), format)
}

/// A key that is required if its section is used.
pub(super) fn required<T>(example: &'static str, format: Format<T>) -> impl FieldReader<T> {
    always(KeyDefault::Required(example), format)
}

/// A key that turns its section on, see [`table_if`].
pub(super) fn switch<T>(example: &'static str, format: Format<T>) -> impl FieldReader<T> {
    always(KeyDefault::Unset(example), format)
}

/// For a mistaken or missing value, the default or the example is used instead, so that reading continues and finds
/// all other mistakes.
fn always<T>(default: KeyDefault, format: Format<T>) -> impl FieldReader<T> {
    move |keys: &mut SectionReader<'_>| keys.value(default, &format).unwrap_or_else(|| format.stand_in(default.text()))
}

/// An optional key.
pub(super) fn optional<T>(example: &'static str, format: Format<T>) -> impl FieldReader<Option<T>> {
    move |keys: &mut SectionReader<'_>| keys.value(KeyDefault::Unset(example), &format)
}

/// An optional list; leaving it out means an empty list.
pub(super) fn or_empty<T>(example: &'static str, format: Format<Vec<T>>) -> impl FieldReader<Vec<T>> {
    move |keys: &mut SectionReader<'_>| keys.value(KeyDefault::Unset(example), &format).unwrap_or_default()
}

/// A table whose keys the user chooses.
pub(super) fn open_table<T>(
    example: &'static str,
    format: Format<T>,
) -> impl FnOnce(&mut SectionReader<'_>) -> BTreeMap<String, T> {
    move |keys: &mut SectionReader<'_>| keys.open_table("<key>", |_| Ok(()), KeyDefault::Unset(example), &format)
}

/// A table whose keys are event types, or prefixes of some with a final `*`.
pub(super) fn table_of_types<T>(
    example: &'static str,
    format: Format<T>,
) -> impl FnOnce(&mut SectionReader<'_>) -> BTreeMap<String, T> {
    move |keys: &mut SectionReader<'_>| {
        keys.open_table("<type>", texts::type_pattern, KeyDefault::Unset(example), &format)
    }
}

/// A nested table. Keys of the same table with a struct of their own are read by [`Section::read`].
pub(super) fn table<S: Section>(keys: &mut SectionReader<'_>) -> S {
    keys.table(S::read)
}

/// A nested table that counts only if all these keys of it are given.
pub(super) fn table_if<S: Section>(needed: &'static [&'static str]) -> impl FieldReader<Option<S>> {
    move |keys: &mut SectionReader<'_>| {
        keys.table(|keys| {
            let section = S::read(keys);
            needed.iter().all(|key| keys.is_set(key)).then_some(section)
        })
    }
}

/// One table for each endpoint.
pub(super) fn table_of_endpoints<S: Section>(keys: &mut SectionReader<'_>) -> Vec<S> {
    keys.table(|keys| keys.endpoints().iter().map(|name| keys.field(name, "", table)).collect())
}

/// Not a key, but the user's name for this table.
pub(super) fn table_name(keys: &mut SectionReader<'_>) -> Arc<str> {
    keys.table_name().into()
}

/// Marks what a reload applies.
pub(super) fn reloadable<T>(read: impl FieldReader<T>) -> impl FieldReader<T> {
    |keys: &mut SectionReader<'_>| keys.within(|scope| scope.reloadable = true, read)
}

/// Marks secrets and files that only the server needs, and a reader of the bus does not.
pub(super) fn server_only<T>(read: impl FieldReader<T>) -> impl FieldReader<T> {
    |keys: &mut SectionReader<'_>| keys.within(|scope| scope.server_only = true, read)
}
