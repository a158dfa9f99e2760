//! A packed image boots by every entry that it has, and a damaged one is refused with a message.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use boot_tests::command;
use boot_tests::expect::Expectations;
use boot_tests::guest::Guest;
use boot_tests::host::pack;
use boot_tests::image_file::{ImageFile, Part, RECORD, field};
use boot_tests::kernel::{Kernel, Variant, afterburner};
use boot_tests::qemu::{Machine, WORDS};
use initramfs::Archive;

/// What Debian's package `ovmf` has for a machine without a disk for its variables.
const UEFI: &str = "/usr/share/ovmf/OVMF.fd";

/// Packs a kernel with an initramfs, and with the words that every kernel here is told.
fn self_contained(kernel: &Kernel, initramfs: &Path, iso: bool, image: &Path) -> Result<()> {
    let mut options = vec![OsStr::new("--initrd"), initramfs.as_os_str(), "--cmdline".as_ref(), WORDS.as_ref()];
    options.extend(iso.then_some(OsStr::new("--iso")));
    pack(kernel, &options, image)?;
    Ok(())
}

/// Bytes of a module that GRUB, which takes the lowest memory that is free, puts across the
/// kernel's place: longer than what is free below 16 MB, shorter than what is below the payload.
const ACROSS_THE_KERNEL: usize = 15 << 20;

/// A CD on which GRUB loads the image by multiboot 1, and two archives as modules: one that GRUB
/// puts where the kernel is to go, and the guest's. Returns with it what the guest will say of the
/// first.
fn multiboot1(image: &Path, guest: &Path, directory: &Path) -> Result<(OsString, String)> {
    let boot = directory.join("root/boot");
    fs::create_dir_all(boot.join("grub"))?;
    fs::copy(image, boot.join("image"))?;
    fs::copy(guest, boot.join("guest"))?;
    // No two pages are alike. BIOS reads slowly: on the CD it is compressed.
    let page = |number: usize| [number.to_le_bytes(); 512];
    let content: Vec<u8> = (0..ACROSS_THE_KERNEL / 4096).flat_map(page).flatten().collect();
    fs::write(directory.join("content"), &content)?;
    let sum = command::output(Command::new("md5sum").arg(directory.join("content")))?;
    fs::write(boot.join("archive"), Archive::default().file("content", 0o644, &content).finish())?;
    command::output(Command::new("gzip").arg(boot.join("archive")))?;
    let menu = "serial\nterminal_output serial\ninsmod gzio\nmultiboot /boot/image\nmodule /boot/archive.gz\n\
                module /boot/guest\nboot\n";
    fs::write(boot.join("grub/grub.cfg"), menu)?;
    let iso = directory.join("multiboot1.iso");
    let mut grub = Command::new("grub-mkrescue");
    command::output(grub.args(["--compress=xz", "--fonts=", "-o"]).arg(&iso).arg(directory.join("root")))?;
    Ok((iso.into(), format!("guest: content {}", sum.split(' ').next().unwrap_or_default())))
}

/// The image that `pack --iso` has put on a CD.
fn image_on(iso: &Path, directory: &Path) -> Result<Vec<u8>> {
    let image = directory.join("extracted");
    let mut xorriso = Command::new("xorriso");
    xorriso.args(["-osirrox", "on", "-indev"]).arg(iso).args(["-extract", "/boot/afterburner"]).arg(&image);
    command::output(&mut xorriso)?;
    Ok(fs::read(image)?)
}

#[test]
fn the_same_image_boots_by_every_entry() -> Result<()> {
    let kernel = Variant::MIN.build()?;
    let directory = tempfile::tempdir()?;
    let guest = Guest::script("shell", kernel.modules_named(&["msr", "cpuid"])?).initramfs()?;
    let (image, iso) = (directory.path().join("image"), directory.path().join("image.iso"));
    self_contained(&kernel, guest.path(), false, &image)?;
    self_contained(&kernel, guest.path(), true, &iso)?;
    ensure!(image_on(&iso, directory.path())? == fs::read(&image)?, "the image on the CD is another");
    let bare_image = directory.path().join("bare-image");
    pack(&kernel, &["--cmdline".as_ref(), WORDS.as_ref()], &bare_image)?;
    let (multiboot1, content) = multiboot1(&bare_image, guest.path(), directory.path())?;

    let cd = |iso: &OsStr| vec!["-cdrom".into(), iso.to_owned()];
    let uefi = |medium: Vec<OsString>| [vec!["-bios".into(), UEFI.into(), "-m".into(), "512".into()], medium].concat();
    let mut stick = OsString::from("format=raw,if=ide,snapshot=on,file=");
    stick.push(&iso);
    let stick = vec!["-drive".into(), stick];
    for (name, protocol, machine) in [
        ("pvh", "PVH", Machine::image(&image)),
        ("bios-cd", "multiboot 2", Machine::firmware(cd(iso.as_os_str()))),
        ("bios-stick", "multiboot 2", Machine::firmware(stick.clone())),
        ("uefi-cd", "multiboot 2", Machine::firmware(uefi(cd(iso.as_os_str())))),
        ("uefi-stick", "multiboot 2", Machine::firmware(uefi(stick))),
        ("bios-multiboot1", "multiboot 1", Machine::firmware(cd(&multiboot1))),
    ] {
        let log = machine.boot(&format!("image-{name}"), &Expectations::read("shell")?)?;
        let entered = format!("afterburner: backend bare, mode native, entered by {protocol}");
        ensure!(log.contains(&entered), "{name}: the wedge did not say `{entered}`");
        let is_whole = log.contains(&content);
        ensure!(is_whole == (protocol == "multiboot 1"), "{name}: of a module, `{content}`: {is_whole}");
    }
    Ok(())
}

/// On this machine a reboot goes back to the firmware, and that to the image as it lies in memory.
#[test]
fn a_wedge_that_is_entered_again_resets_the_machine() -> Result<()> {
    let kernel = Variant::MIN.build()?;
    let directory = tempfile::tempdir()?;
    let guest = Guest::script("nothing", Vec::new()).initramfs()?;
    let image = directory.path().join("image");
    self_contained(&kernel, guest.path(), false, &image)?;
    let options = vec!["-M".into(), "microvm".into()];
    let machine = Machine { options, timeout: Duration::from_secs(60), ..Machine::image(&image) };
    let again = "afterburner: entered again without having been loaded again: the machine is reset";
    machine.boot("entered-again", &Expectations::new(&["Restarting system", again], &["stopped"])).map(drop)
}

#[test]
fn the_kernel_in_an_image_boots_without_the_wedge() -> Result<()> {
    let kernel = Variant::MIN.build()?;
    let directory = tempfile::tempdir()?;
    let guest = Guest::script("shell", kernel.modules_named(&["msr", "cpuid"])?).initramfs()?;
    let image = directory.path().join("image");
    self_contained(&kernel, guest.path(), false, &image)?;
    command::output(Command::new(afterburner()?).arg("unpack").arg(&image).arg("-d").arg(directory.path()))?;
    let unpacked = |name: &str| directory.path().join(name);
    ensure!(fs::read(unpacked("initramfs"))? == fs::read(guest.path())?, "the initramfs is another");
    ensure!(fs::read_to_string(unpacked("cmdline"))?.trim_end() == WORDS, "the command line is another");

    for (name, vmlinux) in [("unpacked", unpacked("vmlinux")), ("bzimage", kernel.bzimage())] {
        let log = Machine::new(vmlinux, unpacked("initramfs")).boot(name, &Expectations::read("shell")?)?;
        ensure!(!log.contains("afterburner: backend"), "{name}: there is a wedge");
    }
    Ok(())
}

/// Boots what the wedge has to refuse, with a message that starts like this.
fn refused(machine: Machine<'_>, name: &str, message: &str) -> Result<()> {
    let stopped = "afterburner: stopped";
    let message = format!("afterburner: {message}");
    let expectations = Expectations::new(&[&message, stopped], &["Linux version", "panicked"]);
    let timeout = Duration::from_secs(60);
    Machine { timeout, last_line: Some(stopped), ..machine }.boot(&format!("refused-{name}"), &expectations)?;
    Ok(())
}

/// A small image with an initramfs; nothing that is in it ever runs.
fn to_be_damaged(directory: &Path) -> Result<(PathBuf, ImageFile)> {
    let kernel = Variant::MIN.build()?;
    let guest = Guest::script("nothing", Vec::new()).initramfs()?;
    let image = directory.join("image");
    self_contained(&kernel, guest.path(), false, &image)?;
    let file = ImageFile::read(&image)?;
    Ok((image, file))
}

/// One way to damage an image.
type Damage = fn(&mut ImageFile) -> Result<()>;

/// What the checksum finds.
const FOUND_BY_CHECKSUM: [(&str, Damage); 6] = [
    ("kernel", |image| flip(image.part(Part::Kernel)?)),
    ("sites", |image| flip(image.part(Part::Sites)?)),
    ("initramfs", |image| flip(image.part(Part::Initramfs)?)),
    ("command-line", |image| flip(image.part(Part::CommandLine)?)),
    ("checksum", |image| flip(image.field(field::CHECKSUM)?)),
    ("tail", |image| {
        let payload = image.payload();
        let length = payload.len();
        payload[length - 100_000..].fill(0);
        Ok(())
    }),
];

/// What is found before the checksum is looked at, and what is found although it is right.
const FOUND_BESIDES: [(&str, Damage, &str); 19] = [
    ("magic", |image| flip(&mut image.payload()[..16]), "the payload has no header of this version of the wedge"),
    ("length", |image| set(image, field::LENGTH, 1 << 30), "the payload is cut short: "),
    (
        "span",
        |image| set(image, Part::Initramfs as usize, 1 << 30),
        "the payload's initramfs does not lie in the payload",
    ),
    ("utf-8", |image| patch(image, Part::CommandLine, 0, &[0xff]), "the payload's command line is not UTF-8"),
    ("nul", |image| patch(image, Part::CommandLine, 0, &[0]), "the command line has a NUL in it"),
    ("elf", |image| patch(image, Part::Kernel, 0, b"\x7fELG"), "the kernel is no 64-bit little-endian ELF file"),
    ("elf-machine", |image| patch(image, Part::Kernel, 18, &[3, 0]), "the kernel is for ELF machine 3, not for x86-64"),
    ("elf-headers", |image| patch(image, Part::Kernel, 32, &u64::MAX.to_le_bytes()), "the kernel should have"),
    (
        "elf-segment",
        |image| patch(image, Part::Kernel, 64 + 32, &(1_u64 << 40).to_le_bytes()),
        "the kernel has a bad program header, number 0: ",
    ),
    (
        "relocations",
        |image| {
            set(image, Part::Relocations as usize, 0)?;
            set(image, Part::Relocations as usize + 8, 7)
        },
        "the kernel's relocations are not three lists of 32-bit words",
    ),
    ENDLESS_MODULES,
    (
        "copies",
        |image| patch(image, Part::Copies, 0, &[0xff; 8]),
        "number 0 of the payload's copies is of record 18446744",
    ),
    (
        "processor-numbers",
        |image| {
            set(image, Part::ProcessorNumbers as usize, 0)?;
            set(image, Part::ProcessorNumbers as usize + 8, 7)
        },
        "the payload's list of processor numbers has 7 bytes, no multiple of 24",
    ),
    (
        "window",
        |image| set(image, field::WINDOW_ENTRY, 0x1234_5fe8),
        "the kernel's page table has no free entry for the wedge's window at 0x12345fe8",
    ),
    (
        "layout",
        |image| set(image, field::IMAGE, 0x7fff_8000_0000),
        "the payload has a kernel whose image is mapped from 0x7fff80000000 on; there are 0xffffffff80000000 (standard) \
         and 0x5fff80000000 (low)",
    ),
    (
        "other-layout",
        |image| {
            set(image, field::IMAGE, 0x5fff_8000_0000)?;
            set(image, field::MODULES_START, 0x5fff_a000_0000)?;
            set(image, field::MODULES_END, 0x5fff_ff00_0000)
        },
        "the wedge's window is at 0xffffffff7f000000, and the payload's kernel wants it at 0x5fff7f000000",
    ),
    (
        "record-flags",
        |image| patch(image, Part::Sites, 1000 * RECORD + 10, &[0, 0x80]),
        "the table of sites is refused: record 1000, site 0xffffffff81",
    ),
    (
        "record-site",
        |image| {
            let sites = image.part(Part::Sites)?;
            sites[1000 * RECORD] ^= 1;
            Ok(())
        },
        "the table of sites is refused: record 1000, site 0xffffffff81",
    ),
    (
        "sites-length",
        |image| {
            let length = image.part(Part::Sites)?.len() as u64;
            set(image, Part::Sites as usize + 8, length - 1)
        },
        "the table of sites is refused: a site table of ",
    ),
];

/// What the wedge would look through at each flush of the TLB.
const ENDLESS_MODULES: (&str, Damage, &str) = (
    "modules",
    |image| set(image, field::MODULES_START, 0),
    "the payload says that modules lie at 0x0-0xffffffffff000000, ",
);

/// Flips a bit in the middle.
fn flip(bytes: &mut [u8]) -> Result<()> {
    let middle = bytes.len() / 2;
    *bytes.get_mut(middle).context("an empty part")? ^= 0x10;
    Ok(())
}

fn set(image: &mut ImageFile, offset: usize, value: u64) -> Result<()> {
    *image.field(offset)? = value.to_le_bytes();
    Ok(())
}

fn patch(image: &mut ImageFile, part: Part, offset: usize, bytes: &[u8]) -> Result<()> {
    let place = image.part(part)?.get_mut(offset..offset + bytes.len()).context("beyond the part")?;
    place.copy_from_slice(bytes);
    Ok(())
}

const DAMAGED: &str = "the payload is damaged: its checksum is 0x";

#[test]
fn a_damaged_image_is_refused_with_a_message() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (_, whole) = to_be_damaged(directory.path())?;
    let path = directory.path().join("damaged");
    for (name, damage) in FOUND_BY_CHECKSUM {
        let mut image = whole.clone();
        damage(&mut image)?;
        image.write(&path)?;
        refused(Machine::image(&path), name, DAMAGED)?;
    }
    for (name, damage, message) in FOUND_BESIDES {
        let mut image = whole.clone();
        damage(&mut image)?;
        image.seal()?;
        image.write(&path)?;
        refused(Machine::image(&path), name, message)?;
    }
    Ok(())
}

#[test]
fn a_damaged_image_is_refused_on_xen_with_a_message() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (_, mut image) = to_be_damaged(directory.path())?;
    let (path, (name, damage, message)) = (directory.path().join("damaged"), ENDLESS_MODULES);
    damage(&mut image)?;
    image.seal()?;
    image.write(&path)?;
    refused(Machine::image(&path).on_xen()?, &format!("{name}-xen"), message)
}

#[test]
fn a_seal_alone_changes_nothing() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (path, mut image) = to_be_damaged(directory.path())?;
    let whole = fs::read(&path)?;
    image.seal()?;
    image.write(&path)?;
    ensure!(fs::read(&path)? == whole, "the checksum is not that of `afterburner pack`");
    Machine::image(&path).boot("sealed", &Expectations::read("nothing")?)?;
    Ok(())
}

#[test]
fn a_bit_that_changed_anywhere_is_found() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (_, mut image) = to_be_damaged(directory.path())?;
    let path = directory.path().join("damaged");
    let first = field::CHECKSUM + 8;
    let mut random: u64 = 1;
    for number in 0..40 {
        // Knuth's MMIX generator; its upper bits are the good ones.
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let payload = image.payload();
        let at = first + usize::try_from(random >> 33)? % (payload.len() - first);
        let bit = 1 << (random >> 29 & 7);
        payload[at] ^= bit;
        image.write(&path)?;
        refused(Machine::image(&path), &format!("bit-{number}"), DAMAGED).with_context(|| format!("byte {at:#x}"))?;
        image.payload()[at] ^= bit;
    }
    Ok(())
}

#[test]
fn a_wrong_command_line_is_refused_with_a_message() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (image, mut file) = to_be_damaged(directory.path())?;
    let long = "x".repeat(2047 - WORDS.len());
    for (name, words, message) in [
        ("mode", "afterburn.mode=fast", "afterburn.mode=fast: no such mode; there are native identity profile"),
        ("no-mode", "afterburn.mode=", "afterburn.mode=: a value is missing; there are native identity profile"),
        ("backend", "afterburn.backend=kvm", "afterburn.backend=kvm: no such backend; there are bare xen process l4"),
        ("xen", "afterburn.backend=xen", "afterburn.backend=xen: this backend needs a Xen PV entry; this machine was"),
        ("process", "afterburn.backend=process", "afterburn.backend=process: this backend needs to be started as a"),
        ("l4", "afterburn.backend=l4", "afterburn.backend=l4: this backend needs to be started by seL4, as its"),
        (
            "option",
            "afterburn.x=1",
            "afterburn.x: no such option; there are afterburn.backend=, afterburn.mode=, afterburn.tables= and afterburn.evict=",
        ),
        ("stack", "afterburn.evict=x", "afterburn.evict=x: no such stack; there are current tss-rsp0 tss-ist syscall "),
        ("evict", "afterburn.evict=thread", "afterburn.evict=thread: on bare hardware there is no shadow"),
        ("long", &long, "the command line is longer than 2047 bytes"),
    ] {
        refused(Machine { append: words.into(), ..Machine::image(&image) }, name, message)?;
    }
    // At the end of the whole line Linux does without the second quote.
    patch(&mut file, Part::CommandLine, 0, b"\"")?;
    file.seal()?;
    file.write(&image)?;
    let machine = Machine { append: "quiet".into(), ..Machine::image(&image) };
    refused(machine, "quote", "a quote in the command line is not closed")
}

#[test]
fn too_little_memory_is_refused_with_a_message() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (image, _) = to_be_damaged(directory.path())?;
    // The payload lies from 26 MB to 35 MB.
    for megabytes in ["26", "28", "32"] {
        let options = vec!["-m".into(), megabytes.into()];
        let message = "no ";
        refused(Machine { options, ..Machine::image(&image) }, &format!("{megabytes}-mb"), message)?;
    }
    Ok(())
}

#[test]
fn a_processor_that_cannot_count_is_refused_with_a_message() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (image, _) = to_be_damaged(directory.path())?;
    let machine = Machine { cpu: "qemu64,-lahf-lm", append: "afterburn.mode=profile".into(), ..Machine::image(&image) };
    refused(machine, "no-lahf", "afterburn.mode=profile needs a processor with LAHF in 64-bit mode")
}
