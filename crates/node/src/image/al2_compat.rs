//! debian
use super::{Build, Error, Manifest};
pub(super) fn build(_build: Build, _progress: &mut dyn FnMut(&str)) -> Result<Manifest, Error> {
    Err(Error::UnknownRecipe("x".into()))
}
