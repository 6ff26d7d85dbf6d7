//! The ciphers: each binds what it makes to the key that the value is stored under, so that no value can be read in
//! another's place.

use aws_lc_rs::{
    aead::{AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    cipher::{
        AES_128, AES_192, AES_256, DecryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey,
        UnboundCipherKey,
    },
    digest, hmac,
    iv::FixedLength,
    rand,
};
use crypto_secretbox::{KeyInit as _, XSalsa20Poly1305, aead::Aead as _};

/// A cipher failed; there is no more to say.
#[derive(Debug)]
pub(super) struct Failed;

const GCM_NONCE: usize = 12;
const BLOCK: usize = 16;
const MAC: usize = 32;
const BOX_NONCE: usize = 24;

/// One key of one provider.
pub(super) enum Cipher {
    Gcm(Box<LessSafeKey>),
    /// AES-CBC proves nothing, so that what it makes is authenticated under a key of its own.
    Cbc {
        secret: Vec<u8>,
        mac: Box<hmac::Key>,
    },
    SecretBox(XSalsa20Poly1305),
}

impl Cipher {
    pub(super) fn gcm(secret: &[u8]) -> Result<Cipher, Failed> {
        let algorithm = match secret.len() {
            16 => &AES_128_GCM,
            24 => &AES_192_GCM,
            32 => &AES_256_GCM,
            _ => return Err(Failed),
        };
        let key = UnboundKey::new(algorithm, secret).map_err(|_| Failed)?;
        Ok(Cipher::Gcm(Box::new(LessSafeKey::new(key))))
    }

    pub(super) fn cbc(secret: &[u8]) -> Result<Cipher, Failed> {
        block_key(secret)?;
        let derive = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derived = hmac::sign(&derive, b"dray store: authentication of aescbc");
        let mac = Box::new(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()));
        Ok(Cipher::Cbc { secret: secret.to_vec(), mac })
    }

    pub(super) fn secret_box(secret: &[u8]) -> Result<Cipher, Failed> {
        XSalsa20Poly1305::new_from_slice(secret).map(Cipher::SecretBox).map_err(|_| Failed)
    }

    /// Encrypts a text that is stored at `place`.
    pub(super) fn seal(&self, place: &[u8], text: &[u8]) -> Result<Vec<u8>, Failed> {
        match self {
            Cipher::Gcm(key) => {
                let mut sealed = text.to_vec();
                let mut bytes = [0; GCM_NONCE];
                rand::fill(&mut bytes).map_err(|_| Failed)?;
                let nonce = Nonce::assume_unique_for_key(bytes);
                key.seal_in_place_append_tag(nonce, Aad::from(place), &mut sealed).map_err(|_| Failed)?;
                Ok([&bytes[..], &sealed[..]].concat())
            }
            Cipher::Cbc { secret, mac } => {
                let key = PaddedBlockEncryptingKey::cbc_pkcs7(block_key(secret)?).map_err(|_| Failed)?;
                let mut sealed = text.to_vec();
                let DecryptionContext::Iv128(iv) = key.encrypt(&mut sealed).map_err(|_| Failed)? else {
                    return Err(Failed);
                };
                let iv: &[u8; BLOCK] = iv.as_ref();
                let tag = hmac::sign(mac, &authenticated(place, iv, &sealed));
                Ok([iv, &sealed[..], tag.as_ref()].concat())
            }
            Cipher::SecretBox(key) => {
                let mut nonce = [0; BOX_NONCE];
                rand::fill(&mut nonce).map_err(|_| Failed)?;
                let text = [digest::digest(&digest::SHA256, place).as_ref(), text].concat();
                let sealed = key.encrypt((&nonce).into(), &text[..]).map_err(|_| Failed)?;
                Ok([&nonce, &sealed[..]].concat())
            }
        }
    }

    /// Decrypts what was encrypted for `place`.
    pub(super) fn open(&self, place: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Failed> {
        match self {
            Cipher::Gcm(key) => {
                let (nonce, sealed) = sealed.split_first_chunk::<GCM_NONCE>().ok_or(Failed)?;
                let mut text = sealed.to_vec();
                let nonce = Nonce::assume_unique_for_key(*nonce);
                let length = key.open_in_place(nonce, Aad::from(place), &mut text).map_err(|_| Failed)?.len();
                text.truncate(length);
                Ok(text)
            }
            Cipher::Cbc { secret, mac } => {
                let (iv, rest) = sealed.split_first_chunk::<BLOCK>().ok_or(Failed)?;
                let (sealed, tag) = rest.split_last_chunk::<MAC>().ok_or(Failed)?;
                hmac::verify(mac, &authenticated(place, iv, sealed), tag).map_err(|_| Failed)?;
                let key = PaddedBlockDecryptingKey::cbc_pkcs7(block_key(secret)?).map_err(|_| Failed)?;
                let mut text = sealed.to_vec();
                let context = DecryptionContext::Iv128(FixedLength::from(*iv));
                let length = key.decrypt(&mut text, context).map_err(|_| Failed)?.len();
                text.truncate(length);
                Ok(text)
            }
            Cipher::SecretBox(key) => {
                let (nonce, sealed) = sealed.split_first_chunk::<BOX_NONCE>().ok_or(Failed)?;
                let text = key.decrypt(nonce.into(), sealed).map_err(|_| Failed)?;
                let text = text.strip_prefix(digest::digest(&digest::SHA256, place).as_ref());
                text.map(<[u8]>::to_vec).ok_or(Failed)
            }
        }
    }
}

fn block_key(secret: &[u8]) -> Result<UnboundCipherKey, Failed> {
    let algorithm = match secret.len() {
        16 => &AES_128,
        24 => &AES_192,
        32 => &AES_256,
        _ => return Err(Failed),
    };
    UnboundCipherKey::new(algorithm, secret).map_err(|_| Failed)
}

/// What the tag of AES-CBC is over. The length keeps the place and the rest apart.
fn authenticated(place: &[u8], iv: &[u8; BLOCK], sealed: &[u8]) -> Vec<u8> {
    [&(place.len() as u64).to_le_bytes()[..], place, iv, sealed].concat()
}

#[cfg(test)]
mod tests {
    use super::Cipher;

    #[test]
    fn what_is_sealed_is_opened_in_its_own_place_only() {
        let keys = |length| (0..length).map(|number| number as u8).collect::<Vec<_>>();
        let ciphers = [16, 24, 32]
            .into_iter()
            .flat_map(|length| [Cipher::gcm(&keys(length)).unwrap(), Cipher::cbc(&keys(length)).unwrap()]);
        for cipher in ciphers.chain([Cipher::secret_box(&keys(32)).unwrap()]) {
            let sealed = cipher.seal(b"/registry/core/secrets/a/b", b"the text").unwrap();
            assert!(!sealed.windows(8).any(|window| window == b"the text"));
            assert_eq!(cipher.open(b"/registry/core/secrets/a/b", &sealed).unwrap(), b"the text");
            assert!(cipher.open(b"/registry/core/secrets/a/c", &sealed).is_err());
            for bit in 0..sealed.len() * 8 {
                let mut flipped = sealed.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(cipher.open(b"/registry/core/secrets/a/b", &flipped).is_err(), "bit {bit}");
            }
            for length in 0..sealed.len() {
                assert!(cipher.open(b"/registry/core/secrets/a/b", &sealed[..length]).is_err());
            }
        }
        assert!(Cipher::gcm(&keys(15)).is_err() && Cipher::cbc(&keys(33)).is_err());
        assert!(Cipher::secret_box(&keys(16)).is_err());
    }
}
