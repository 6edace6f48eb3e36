//! The words in which the keys of a section are declared. Each gives a function that reads one field.

use std::collections::BTreeMap;

use super::format::Format;
use super::key::KeyDefault;
use super::section_reader::SectionReader;
use super::texts;

/// A part of the configuration that has keys of its own.
pub(super) trait Section: Sized {
    fn read(keys: &mut SectionReader<'_>) -> Self;
}

/// What reads a field.
pub(super) trait FieldReader<T>: FnOnce(&mut SectionReader<'_>) -> T {}

impl<T, F: FnOnce(&mut SectionReader<'_>) -> T> FieldReader<T> for F {}

/// Declares a section: its struct, and by what each field is read. The comment above a field is the documentation of
/// its key, also in the reference file: one sentence, without a full stop.
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

/// A key that has a default for the endpoint `terra` alone, and that all others have to give.
pub(super) fn default_of_terra<T>(text: &'static str, format: Format<T>) -> impl FieldReader<T> {
    always(KeyDefault::ValueOfTerra(text), format)
}

/// A key that has to be given where its section is used.
pub(super) fn required<T>(example: &'static str, format: Format<T>) -> impl FieldReader<T> {
    always(KeyDefault::Required(example), format)
}

/// A key that turns its section on, see [`table_if`].
pub(super) fn switch<T>(example: &'static str, format: Format<T>) -> impl FieldReader<T> {
    always(KeyDefault::Unset(example), format)
}

/// In place of a value that is mistaken or missing the default stands, or the example, so that reading goes on and finds
/// all other mistakes.
fn always<T>(default: KeyDefault, format: Format<T>) -> impl FieldReader<T> {
    move |keys: &mut SectionReader<'_>| keys.value(default, &format).unwrap_or_else(|| format.stand_in(default.text()))
}

/// A key that may be left out.
pub(super) fn optional<T>(example: &'static str, format: Format<T>) -> impl FieldReader<Option<T>> {
    move |keys: &mut SectionReader<'_>| keys.value(KeyDefault::Unset(example), &format)
}

/// A list that may be left out, which is the same as an empty one.
pub(super) fn or_empty<T>(example: &'static str, format: Format<Vec<T>>) -> impl FieldReader<Vec<T>> {
    move |keys: &mut SectionReader<'_>| keys.value(KeyDefault::Unset(example), &format).unwrap_or_default()
}

/// A table whose names are the user's own.
pub(super) fn open_table<T>(
    example: &'static str,
    format: Format<T>,
) -> impl FnOnce(&mut SectionReader<'_>) -> BTreeMap<String, T> {
    move |keys: &mut SectionReader<'_>| keys.open_table("<key>", |_| Ok(()), KeyDefault::Unset(example), &format)
}

/// A table whose names are types of events, or the beginnings of some and a final `*`.
pub(super) fn table_of_types<T>(
    example: &'static str,
    format: Format<T>,
) -> impl FnOnce(&mut SectionReader<'_>) -> BTreeMap<String, T> {
    move |keys: &mut SectionReader<'_>| {
        keys.open_table("<type>", texts::type_pattern, KeyDefault::Unset(example), &format)
    }
}

/// A table of its own. Keys of the same table that have a struct of their own are read by [`Section::read`].
pub(super) fn table<S: Section>(keys: &mut SectionReader<'_>) -> S {
    keys.table(S::read)
}

/// A table of its own that counts where all these keys of it are given.
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

/// No key, but what the user calls this table.
pub(super) fn table_name(keys: &mut SectionReader<'_>) -> String {
    keys.table_name().to_owned()
}

/// A reload takes over what is read so.
pub(super) fn reloadable<T>(read: impl FieldReader<T>) -> impl FieldReader<T> {
    |keys: &mut SectionReader<'_>| keys.within(|scope| scope.reloadable = true, read)
}

/// Whoever reads the bus need not have the secrets and files that are named there.
pub(super) fn server_only<T>(read: impl FieldReader<T>) -> impl FieldReader<T> {
    |keys: &mut SectionReader<'_>| keys.within(|scope| scope.server_only = true, read)
}
