//! An image with another command line and initramfs, for a host that hands on neither: seL4 starts
//! its root task with nothing but the file.
//!
//! The wedge stays as it is, and so does where everything lies: behind the payload there is nothing
//! in memory. What tools look for at the end of the file, sections and symbols, is left out.

use anyhow::{Context as _, ensure};
use object::elf::{FileHeader64, PT_LOAD, ProgramHeader64, SHN_UNDEF};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{LittleEndian, U16, U64, pod};
use wedge::image::{Parameters, Payload};

use super::payload;

/// The image in `data`, whose payload is at `start`, with this initramfs and this command line.
pub(crate) fn changed(
    data: &[u8],
    start: usize,
    old: &Payload<'_>,
    initramfs: &[u8],
    command_line: &str,
) -> anyhow::Result<Vec<u8>> {
    let payload = payload::changed(old, initramfs, command_line);
    let mut image = data.get(..start).context("the payload is not in the file")?.to_vec();
    image.extend_from_slice(&payload);
    let length = payload.len() as u64;
    let wedge = change_headers(&mut image, start as u64, length)?;
    let place = wedge..wedge + size_of::<Parameters>();
    let parameters = image.get_mut(place).context("the wedge is not in the file")?;
    // The last word is the payload's length.
    let (rest, last) = parameters.split_at_mut(size_of::<Parameters>() - 8);
    let [offset] = rest.last_chunk().map(|word| [u64::from_le_bytes(*word)]).context("the wedge's parameters")?;
    let load = u64::from_le_bytes(*rest.first_chunk().context("the wedge's parameters")?);
    let end = load.checked_add(offset).and_then(|start| start.checked_add(length));
    ensure!(end.is_some_and(|end| end < 1 << 32), "the image does not fit below 4 GB with this initramfs");
    last.copy_from_slice(&length.to_le_bytes());
    Ok(image)
}

/// Changes the file's headers, and says where in the file the wedge is.
fn change_headers(image: &mut [u8], start: u64, length: u64) -> anyhow::Result<usize> {
    let endian = LittleEndian;
    let header = FileHeader64::<LittleEndian>::parse(&*image)?;
    let (offset, count) = (usize::try_from(header.e_phoff(endian))?, usize::from(header.e_phnum(endian)));
    let loads = header.program_headers(endian, &*image)?.iter().filter(|segment| segment.p_type(endian) == PT_LOAD);
    let wedge = loads.map(|segment| segment.p_offset(endian)).min().context("there is nothing to load")?;
    let (header, _) = pod::from_bytes_mut::<FileHeader64<LittleEndian>>(image).ok().context("no header")?;
    header.e_shoff = U64::new(endian, 0);
    header.e_shnum = U16::new(endian, 0);
    header.e_shstrndx = U16::new(endian, SHN_UNDEF);
    let segments = image.get_mut(offset..).context("no segments")?;
    let (segments, _) =
        pod::slice_from_bytes_mut::<ProgramHeader64<LittleEndian>>(segments, count).ok().context("no segments")?;
    let payload = segments.iter_mut().find(|segment| segment.p_offset(endian) == start).context("no payload")?;
    (payload.p_filesz, payload.p_memsz) = (U64::new(endian, length), U64::new(endian, length));
    Ok(usize::try_from(wedge)?)
}
