//! Names of images: what is read is written so that it reads the same.
#![no_main]

use dray_image::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(reference) = Reference::parse(text) else { return };
    let again = Reference::parse(&reference.to_string()).expect("the full form is a reference");
    assert_eq!(again, reference);
    let familiar = Reference::parse(&reference.familiar()).expect("the familiar form is a reference");
    assert_eq!(familiar, reference);
});
