//! The screen that a multiboot loader has set up.

use zerocopy::FromBytes;
use zerocopy::little_endian::{U32, U64};

use super::Problem;

/// A framebuffer, or a text screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framebuffer {
    /// Physical address of the upper left corner.
    pub address: u64,
    /// Bytes per line.
    pub pitch: u32,
    /// Pixels, or characters, per line.
    pub width: u32,
    /// Lines.
    pub height: u32,
    /// Bits per pixel, or character.
    pub depth: u8,
    /// What a pixel is.
    pub pixels: Pixels,
}

/// What a pixel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pixels {
    /// A number of a colour in a palette.
    Indexed,
    /// Three intensities.
    Direct {
        /// Red.
        red: Channel,
        /// Green.
        green: Channel,
        /// Blue.
        blue: Channel,
    },
    /// No pixel: a character and its attributes (EGA text).
    Text,
}

/// The bits of a pixel that are the intensity of one colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes)]
#[repr(C)]
pub struct Channel {
    /// The lowest bit.
    pub position: u8,
    /// Number of bits.
    pub size: u8,
}

/// The fields that both multiboots have in common, up to the colours (Multiboot Specification
/// 0.6.96, 3.3; Multiboot2 Specification 2.0, 3.6.12). Before the colours the one specification
/// draws nothing, and the other one byte. In what GRUB hands over there are two, in both (its
/// multiboot.h aligns a union that may hold a 32-bit address, its multiboot2.h has a half-word).
#[derive(FromBytes)]
#[repr(C)]
pub(super) struct RawFramebuffer {
    address: U64,
    pitch: U32,
    width: U32,
    height: U32,
    depth: u8,
    kind: u8,
    _reserved: [u8; 2],
}

/// Where the colours of a pixel are, if they are direct.
#[derive(FromBytes)]
#[repr(C)]
struct RawColours {
    red: Channel,
    green: Channel,
    blue: Channel,
}

impl RawFramebuffer {
    /// Checks the description, with what it says of colours. A screen of a kind that is not yet
    /// defined is none: the wedge could not say anything of it.
    pub(super) fn check(&self, colours: &[u8]) -> Result<Option<Framebuffer>, Problem> {
        let pixels = match self.kind {
            0 => Pixels::Indexed,
            1 => {
                let (colours, _) = RawColours::read_from_prefix(colours).map_err(|_| Problem::Geometry)?;
                let RawColours { red, green, blue } = colours;
                Pixels::Direct { red, green, blue }
            }
            2 => Pixels::Text,
            _ => return Ok(None),
        };
        let framebuffer = Framebuffer {
            address: self.address.get(),
            pitch: self.pitch.get(),
            width: self.width.get(),
            height: self.height.get(),
            depth: self.depth,
            pixels,
        };
        if framebuffer.is_possible() { Ok(Some(framebuffer)) } else { Err(Problem::Geometry) }
    }
}

impl Framebuffer {
    fn is_possible(&self) -> bool {
        let bits_per_line = u64::from(self.width) * u64::from(self.depth);
        let size = u64::from(self.pitch) * u64::from(self.height);
        let colours_fit = match self.pixels {
            Pixels::Indexed | Pixels::Text => true,
            Pixels::Direct { red, green, blue } => [red, green, blue]
                .iter()
                .all(|channel| u16::from(channel.position) + u16::from(channel.size) <= u16::from(self.depth)),
        };
        size > 0
            && bits_per_line > 0
            && bits_per_line.div_ceil(8) <= u64::from(self.pitch)
            && self.address.checked_add(size).is_some()
            && colours_fit
    }
}
