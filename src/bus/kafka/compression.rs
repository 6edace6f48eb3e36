//! How messages are compressed, and which clients need a package to read them.

use crate::bus::Finding;
use crate::config::Compression;

/// The codec's name, for librdkafka and for people.
pub(super) fn codec(compression: Compression) -> &'static str {
    match compression {
        Compression::Lz4 => "lz4",
        Compression::Zstd => "zstd",
        Compression::Snappy => "snappy",
        Compression::Gzip => "gzip",
        Compression::None => "none",
    }
}

/// The packages that kafkajs 2.2, aiokafka 0.14 and kafka-python 3.0 were seen to need; `None` where they need none.
pub(crate) fn needed_packages(compression: Compression) -> Option<Finding> {
    let codec = codec(compression);
    let of_kafkajs = match compression {
        Compression::Lz4 => "kafkajs-lz4",
        Compression::Zstd => "@kafkajs/zstd",
        Compression::Snappy => "kafkajs-snappy",
        Compression::Gzip | Compression::None => return None,
    };
    let says = format!(
        "is {codec}: consumers on kafkajs need the package {of_kafkajs}, on aiokafka aiokafka[{codec}], on kafka-python \
         kafka-python[{codec}]; other clients need none. With gzip and none nobody does"
    );
    Some(Finding::fine("kafka.compression", says))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_every_client_reads_by_itself_goes_without_a_word() {
        let says = |compression| needed_packages(compression).map(|finding| finding.says);
        assert!(
            says(Compression::Lz4).is_some_and(|says| says.contains("kafkajs-lz4") && says.contains("aiokafka[lz4]"))
        );
        assert!(says(Compression::Zstd).is_some_and(|says| says.contains("kafka-python[zstd]")));
        assert!(says(Compression::Snappy).is_some_and(|says| says.contains("kafkajs-snappy")));
        assert_eq!((says(Compression::Gzip), says(Compression::None)), (None, None));
    }
}
