//! Archives of images, of Docker's kind and of the Open Container Initiative's: what is taken in is whole.
#![no_main]

use std::sync::LazyLock;

use dray_fuzz::Cage;
use dray_image::ImageStore;
use libfuzzer_sys::fuzz_target;

static CAGE: LazyLock<Cage> = LazyLock::new(Cage::close);

fuzz_target!(init: { LazyLock::force(&CAGE); }, |bytes: &[u8]| {
    let path = CAGE.fresh();
    let store = ImageStore::open(&path).expect("an empty store opens");
    let loaded = store.load(bytes).is_ok();
    let images = store.list().expect("what was taken in can be listed");
    assert!(loaded || images.is_empty(), "an archive that is refused leaves no image");
    drop(store);
    let again = ImageStore::open(&path).expect("the store opens again").list().expect("it can be listed");
    assert_eq!(again.len(), images.len(), "what was taken in stays");
    CAGE.check();
});
