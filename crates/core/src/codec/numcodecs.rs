//! numcodecs' codecs in the words of Zarr v3.
//!
//! Zarr v2 knows no other codecs, each by its `id` and its settings. In Zarr v3 each is the extension
//! `numcodecs.<id>` with the same settings; `zstd`, `gzip` and `blosc` have names and words of their own
//! there too.

use serde_json::{Value, json};
use zarrs::metadata::v3::MetadataV3;

use crate::error::Error;

/// One codec of Zarr v2 as one of v3, for elements of `itemsize` bytes.
///
/// # Errors
/// [`Error::Unsupported`] naming a setting that is not known.
pub(crate) fn in_v3(codec: &Value, itemsize: usize) -> Result<Value, Error> {
    let id = codec["id"].as_str().unwrap_or_default();
    let configuration = match id {
        "zstd" => json!({
            "level": codec["level"].as_i64().unwrap_or(0),
            "checksum": codec["checksum"].as_bool().unwrap_or(false),
        }),
        "gzip" => json!({"level": codec["level"].as_i64().unwrap_or(1)}),
        "blosc" => {
            // As numcodecs: where nothing is said, of the elements that there are.
            let typesize = codec["typesize"].as_u64().unwrap_or(itemsize as u64);
            // numcodecs: -1 chooses bit shuffling for single bytes and byte shuffling for the rest.
            let shuffle = match (codec["shuffle"].as_i64().unwrap_or(1), typesize) {
                (2, _) | (-1, 1) => "bitshuffle",
                (1 | -1, _) => "shuffle",
                (0, _) => "noshuffle",
                (other, _) => {
                    let text = format!("compressor \"blosc\" of Zarr v2: its shuffle is {other}");
                    return Err(Error::unsupported(text));
                }
            };
            json!({
                "cname": codec["cname"],
                "clevel": codec["clevel"],
                "shuffle": shuffle,
                "typesize": typesize,
                "blocksize": codec["blocksize"].as_u64().unwrap_or(0),
            })
        }
        _ => {
            let mut settings = codec.as_object().cloned().unwrap_or_default();
            settings.remove("id");
            return Ok(json!({"name": format!("numcodecs.{id}"), "configuration": settings}));
        }
    };
    Ok(json!({"name": id, "configuration": configuration}))
}

/// An extension of v3 that is a codec of v3 under another name.
///
/// # Errors
/// As for [`in_v3`].
pub(crate) fn in_plain_words(extension: &MetadataV3) -> Result<MetadataV3, Error> {
    let mut settings = json!(extension.configuration().cloned().unwrap_or_default());
    settings["id"] = json!(extension.name().trim_start_matches("numcodecs."));
    // Of bytes, as it stands after the codec that makes them.
    serde_json::from_value(in_v3(&settings, 1)?)
        .map_err(|error| Error::unsupported(format!("its metadata: {error}")))
}
