//! The one way a secret gets into an answer: `#[serde(with = "logical::expose")]`.
//!
//! [`Sensitive`] has no serde of its own, so a struct that answers a secret has to say so at the
//! field, and a search for `logical::expose` finds every such place.

use serde::{Serialize, Serializer};

use crate::crypto::Sensitive;

/// Serialises the secret itself, an empty `Option` as `null`.
///
/// # Errors
///
/// The serialiser's.
pub fn serialize<'a, T, S>(secret: &'a T, serializer: S) -> Result<S::Ok, S::Error>
where
    &'a T: Into<Option<&'a Sensitive<String>>>,
    S: Serializer,
{
    let secret: Option<&Sensitive<String>> = secret.into();
    secret.map(Sensitive::expose).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_written_where_the_field_says_so() {
        #[derive(Serialize)]
        struct Answer {
            #[serde(with = "super")]
            password: Sensitive<String>,
            #[serde(with = "super")]
            old: Option<Sensitive<String>>,
        }
        let answer = Answer {
            password: Sensitive::from(String::from("hunter2")),
            old: None,
        };
        let json = serde_json::to_string(&answer).unwrap();
        assert_eq!(json, r#"{"password":"hunter2","old":null}"#);
    }
}
