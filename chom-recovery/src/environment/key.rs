//! The application's key, and whether it opens what was encrypted with it.
//!
//! Laravel's `Illuminate\Encryption\Encrypter`: the payload is base64 of a JSON object with `iv`, `value`, `mac` and `tag`.
//! With CBC, `mac` is the HMAC-SHA-256 of `iv` and `value` as they are written, in hex; with GCM, `tag` is the tag.

use aes::{Aes128, Aes256};
use aes_gcm::{AeadInPlace, Aes128Gcm, Aes256Gcm, Nonce, Tag};
use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use cbc::cipher::{BlockDecryptMut, KeyIvInit, block_padding::Pkcs7};
use hmac::{Hmac, KeyInit as _, Mac};
use serde::Deserialize;
use sha2::Sha256;
use zeroize::Zeroizing;

/// PHP's `base64_decode` takes what lacks padding, and passes over what is no digit.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The value of `APP_KEY`; it prints nothing.
pub(crate) struct Key(Zeroizing<Vec<u8>>);

#[derive(Deserialize)]
struct Payload {
    iv: String,
    value: String,
    #[serde(default)]
    mac: String,
    #[serde(default)]
    tag: String,
}

impl Key {
    /// Reads a value of `APP_KEY`; says what is wrong with its form.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let bytes = match text.strip_prefix("base64:") {
            Some(encoded) => {
                let digits: String =
                    encoded.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '/')).collect();
                LENIENT.decode(digits).map_err(|_| "it is not base64".to_owned())?
            }
            None => text.as_bytes().to_vec(),
        };
        match bytes.len() {
            16 | 32 => Ok(Self(Zeroizing::new(bytes))),
            other => Err(format!("it is {other} bytes long, neither 16 nor 32")),
        }
    }

    /// Tells whether it opens a value; `None`: that is no encrypted value.
    pub(crate) fn opens(&self, encrypted: &str) -> Option<bool> {
        let payload: Payload = serde_json::from_slice(&STANDARD.decode(encrypted.trim()).ok()?).ok()?;
        let (iv, value) = (STANDARD.decode(&payload.iv).ok()?, STANDARD.decode(&payload.value).ok()?);
        if payload.tag.is_empty() {
            let mac = hex::decode(&payload.mac).ok()?;
            return Some(self.is_signed(&payload, &mac) && self.opens_cbc(&iv, &value));
        }
        let tag = STANDARD.decode(&payload.tag).ok().filter(|tag| tag.len() == 16)?;
        (iv.len() == 12).then(|| self.opens_gcm(&iv, value, &tag))
    }

    fn is_signed(&self, payload: &Payload, mac: &[u8]) -> bool {
        Hmac::<Sha256>::new_from_slice(&self.0)
            .is_ok_and(|hmac| hmac.chain_update(&payload.iv).chain_update(&payload.value).verify_slice(mac).is_ok())
    }

    fn opens_cbc(&self, iv: &[u8], value: &[u8]) -> bool {
        let mut value = Zeroizing::new(value.to_vec());
        if self.0.len() == 16 {
            cbc::Decryptor::<Aes128>::new_from_slices(&self.0, iv)
                .is_ok_and(|cipher| cipher.decrypt_padded_mut::<Pkcs7>(&mut value).is_ok())
        } else {
            cbc::Decryptor::<Aes256>::new_from_slices(&self.0, iv)
                .is_ok_and(|cipher| cipher.decrypt_padded_mut::<Pkcs7>(&mut value).is_ok())
        }
    }

    fn opens_gcm(&self, iv: &[u8], value: Vec<u8>, tag: &[u8]) -> bool {
        use aes_gcm::KeyInit as _;
        let mut value = Zeroizing::new(value);
        let (nonce, tag) = (Nonce::from_slice(iv), Tag::from_slice(tag));
        if self.0.len() == 16 {
            Aes128Gcm::new_from_slice(&self.0)
                .is_ok_and(|cipher| cipher.decrypt_in_place_detached(nonce, b"", &mut value, tag).is_ok())
        } else {
            Aes256Gcm::new_from_slice(&self.0)
                .is_ok_and(|cipher| cipher.decrypt_in_place_detached(nonce, b"", &mut value, tag).is_ok())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `Illuminate\Encryption\Encrypter` of Laravel 10.
    const MADE: [(&str, &str); 3] = [
        (
            "base64:YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=",
            "eyJpdiI6IkNwbG1pU3k1R0ZXSmlhRWkrM0VSS0E9PSIsInZhbHVlIjoiaVVZQy9iSjFXZFVSaU96QmVoQkhDdz09IiwibWFjIjoiZDNiZGUwMDEwYTM0ZGFlOGIxODA3Njk3ZjBlZGQzNWRmZmM0MzZhYzY2ZDY1MjkxM2VmMGI1ZTI0MjIzYTI1YiIsInRhZyI6IiJ9",
        ),
        (
            "base64:YmJiYmJiYmJiYmJiYmJiYg==",
            "eyJpdiI6IjVwa0UzRHo1dnRmQWNiM0ZOa2UyMmc9PSIsInZhbHVlIjoiaDg4MHBhUzRJSnZ6WUljS2hHNUNOUT09IiwibWFjIjoiMGE5YWJkOWNjNDI2OGUzOTc4ZDhkNDQxZWU0NTAwYmRiNmI3YWU4MTZiN2UzY2Q0YTJhYzgwNTYyMWU1MDJmOCIsInRhZyI6IiJ9",
        ),
        (
            "base64:Y2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2M=",
            "eyJpdiI6ImN0R2pTQ0FTT2dyV3ZFSlgiLCJ2YWx1ZSI6InRJV21Ta000dUY5U2M5SjRhT1k9IiwibWFjIjoiIiwidGFnIjoiWEVQTVBSRWRGbU5uM0psWUk1dkZxUT09In0=",
        ),
    ];

    #[test]
    fn what_laravel_encrypted_is_opened_by_its_key_and_by_no_other() {
        for (key, encrypted) in MADE {
            assert_eq!(Key::read(key).unwrap().opens(encrypted), Some(true), "{key}");
            for (other, _) in MADE.iter().filter(|(other, _)| *other != key) {
                assert_eq!(Key::read(other).unwrap().opens(encrypted), Some(false), "{other}");
            }
        }
    }

    #[test]
    fn a_key_that_lost_its_padding_is_the_same_key() {
        let (key, encrypted) = MADE[0];
        assert_eq!(Key::read(key.trim_end_matches('=')).unwrap().opens(encrypted), Some(true));
    }

    #[test]
    fn what_is_not_encrypted_proves_nothing() {
        let key = Key::read(&"k".repeat(32)).unwrap();
        for text in ["", "+49 30 123", "eyJhIjoxfQ==", "bm8ganNvbg=="] {
            assert_eq!(key.opens(text), None, "{text}");
        }
    }
}
