//! Which instructions are sensitive.
//!
//! Sensitive is what depends on, or changes, privileged state (Popek and Goldberg, 1974): an
//! instruction that would trap or, worse, do something else without a word when the kernel no
//! longer runs at CPL 0. x86 has many of the second kind (`popf`, `smsw`, `sgdt`, `mov %cs`, `verw`
//! ...), so "privileged" in the SDM's sense is not the criterion.
//!
//! One row says all that the project knows of an instruction: how GAS spells it, how the decoder
//! names it, its shortest encoding, and where it is defined. The text stage, the check of a record,
//! the census and the documentation read the same row; to add an instruction is to add a row. Class
//! numbers stand in object files: never renumber, only append.
//!
//! What is *not* here, and why: `lds`, `les`, `into`, `bound`, `arpl` and `push %cs` do not exist
//! in 64-bit mode; `ud2`, `pause`, `lfence`, `rdrand` and `xsave` mean the same at every privilege
//! level. So does `fxsave`; but what it saves is state of the program's, and a host may keep that
//! in a thread that the kernel does not run in. Such a host shows no XSAVE.

use iced_x86::{Code, Decoder, Instruction, Mnemonic, OpKind, Register};

/// What an instruction's operands must be to make it sensitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Always.
    Always,
    /// The source operand (the only one, for `push`) is a register of this file.
    Source(RegisterFile),
    /// The destination operand (the only one, for `pop`) is a register of this file.
    Destination(RegisterFile),
    /// The branch is far, through a selector.
    Far,
    /// The vector is not 3, for which assemblers use an instruction of its own, INT3.
    Vector,
}

/// The register files that hold privileged state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterFile {
    /// CR0-CR15.
    ControlRegisters,
    /// DR0-DR15.
    DebugRegisters,
    /// ES, CS, SS, DS, FS, GS.
    SegmentRegisters,
}

impl RegisterFile {
    fn holds(self, register: Register) -> bool {
        match self {
            Self::ControlRegisters => register.is_cr(),
            Self::DebugRegisters => register.is_dr(),
            Self::SegmentRegisters => register.is_segment_register(),
        }
    }
}

/// One sensitive instruction.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The class that its sites are counted under.
    pub class: Class,
    /// GAS mnemonics, lower case, without operand-size suffix.
    pub mnemonics: &'static [&'static str],
    /// The operand-size suffixes that GAS takes for it; a capital one costs a prefix byte (66, or
    /// REX.W).
    pub suffixes: &'static str,
    /// Length in bytes of the shortest encoding in 64-bit mode.
    pub length: u8,
    /// Slot that an ordinary site gets; at least 5, and more where a longer inlined replacement
    /// pays.
    pub slot: u8,
    /// The decoder's mnemonics.
    pub decoded: &'static [Mnemonic],
    /// What the operands must be.
    pub when: When,
    /// Whether it is annotated unless the user says otherwise.
    pub by_default: bool,
    /// Where it is defined. "SDM" is Intel's manual, order number 325462; "APM" is AMD's, 24593
    /// and 24594.
    pub source: &'static str,
}

/// Two instructions that share one slot, because a pad between them would change what they mean
/// (the interrupt shadow of `sti`, SDM Vol. 2B, STI; a prefix for a hypervisor), or because
/// together they have a far shorter replacement than apart.
#[derive(Clone, Copy, Debug)]
pub struct Sequence {
    /// The class that its sites are counted under.
    pub class: Class,
    /// What comes first.
    pub first: Part,
    /// What comes second.
    pub second: Part,
    /// Slot that an ordinary site gets.
    pub slot: u8,
}

/// One half of a [`Sequence`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// An instruction of this class.
    Class(Class),
    /// `push` of a general-purpose register.
    PushRegister,
    /// `pop` to a general-purpose register.
    PopRegister,
    /// One of the [`EMULATION_PREFIXES`].
    EmulationPrefix,
    /// Any instruction.
    Any,
}

/// What asks a hypervisor to emulate the instruction behind it, although the processor might
/// execute that: UD2, at which the hypervisor gets control, and letters that it knows (Xen,
/// `xen/include/public/arch-x86/xen.h`, `XEN_EMULATE_PREFIX`; KVM,
/// `arch/x86/include/asm/emulate_prefix.h` of Linux, `__KVM_EMULATE_PREFIX`). The processor itself
/// never gets to the letters, which decode to something else.
pub const EMULATION_PREFIXES: [[u8; 5]; 2] = [*b"\x0f\x0bxen", *b"\x0f\x0bkvm"];

/// Whether bytes start with one of the [`EMULATION_PREFIXES`].
#[must_use]
pub fn starts_with_emulation_prefix(bytes: &[u8]) -> bool {
    EMULATION_PREFIXES.iter().any(|prefix| bytes.starts_with(prefix))
}

/// Decodes the next instruction of `bytes`, those that the decoder was made for. One of the
/// [`EMULATION_PREFIXES`] is one UD2, of all its bytes.
pub fn decode_next(decoder: &mut Decoder<'_>, bytes: &[u8]) -> Instruction {
    let (start, address) = (decoder.position(), decoder.ip());
    let mut instruction = decoder.decode();
    if instruction.code() == Code::Ud2 && bytes.get(start..).is_some_and(starts_with_emulation_prefix) {
        let length = EMULATION_PREFIXES[0].len();
        let _is_within = decoder.set_position(start + length);
        decoder.set_ip(address.wrapping_add(length as u64));
        instruction.set_len(length);
        instruction.set_ip(address);
    }
    instruction
}

macro_rules! sensitive {
    (
        instructions {$(
            $class:ident = $number:literal $name:literal: [$($mnemonic:literal),*] $suffixes:literal
            [$($decoded:ident),*] $when:expr, $length:literal in $slot:literal, $default:ident, $source:literal;
        )*}
        sequences {$(
            $sequence:ident = $sequence_number:literal $sequence_name:literal:
            $first:expr, $second:expr, in $sequence_slot:literal, $sequence_source:literal;
        )*}
    ) => {
        /// What a site is counted and rewritten as: one class per sensitive instruction or known
        /// sequence.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Class {
            $(#[doc = concat!("`", $name, "`: ", $source)] $class = $number,)*
            $(#[doc = concat!("`", $sequence_name, "`: ", $sequence_source)] $sequence = $sequence_number,)*
        }

        impl Class {
            /// Every class, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$class,)* $(Self::$sequence,)*];

            /// The class with this number in a record.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$class),)*
                    $($sequence_number => Some(Self::$sequence),)*
                    _ => None,
                }
            }

            /// The name that reports and options use.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$class => $name,)*
                    $(Self::$sequence => $sequence_name,)*
                }
            }
        }

        /// The table.
        pub const TABLE: &[Row] = &[$(Row {
            class: Class::$class,
            mnemonics: &[$($mnemonic),*],
            suffixes: $suffixes,
            length: $length,
            slot: $slot,
            decoded: &[$(Mnemonic::$decoded),*],
            when: $when,
            by_default: sensitive!(@ $default),
            source: $source,
        },)*];

        /// The sequences that share a slot.
        pub const SEQUENCES: &[Sequence] = &[$(Sequence {
            class: Class::$sequence,
            first: $first,
            second: $second,
            slot: $sequence_slot,
        },)*];
    };
    (@ on) => { true };
    (@ off) => { false };
}

use RegisterFile::{ControlRegisters, DebugRegisters, SegmentRegisters};
use When::{Always, Destination, Far, Source, Vector};

// `cli` and `pushf; pop` are the hottest sites of a boot. Their inlined replacements are one store
// or load of the virtual interrupt flag at a RIP-relative address: `movb $imm8, disp32(%rip)` (C6
// 05, SDM Vol. 2B, MOV) and `mov disp32(%rip), %r64` (REX 8B, ditto) are 7 bytes each. A slot's
// length costs text, but not instructions.
#[rustfmt::skip]
sensitive! {
    instructions {
        // Interrupt flag and flags image
        Cli = 1 "cli": ["cli"] "" [Cli] Always, 1 in 7, on, "SDM Vol. 2A, CLI";
        Sti = 2 "sti": ["sti"] "" [Sti] Always, 1 in 5, on, "SDM Vol. 2B, STI";
        Pushf = 3 "pushf": ["pushf", "pushfd"] "Wlq" [Pushf, Pushfd, Pushfq] Always, 1 in 5, on, "SDM Vol. 2B, PUSHF/PUSHFD/PUSHFQ";
        Popf = 4 "popf": ["popf", "popfd"] "Wlq" [Popf, Popfd, Popfq] Always, 1 in 5, on, "SDM Vol. 2B, POPF/POPFD/POPFQ";
        Clac = 5 "clac": ["clac"] "" [Clac] Always, 3 in 5, on, "SDM Vol. 2A, CLAC";
        Stac = 6 "stac": ["stac"] "" [Stac] Always, 3 in 5, on, "SDM Vol. 2B, STAC";
        Clui = 7 "clui": ["clui"] "" [Clui] Always, 4 in 5, on, "SDM Vol. 2A, CLUI";
        Stui = 8 "stui": ["stui"] "" [Stui] Always, 4 in 5, on, "SDM Vol. 2B, STUI";
        Clgi = 9 "clgi": ["clgi"] "" [Clgi] Always, 3 in 5, on, "APM Vol. 3, CLGI";
        Stgi = 10 "stgi": ["stgi"] "" [Stgi] Always, 3 in 5, on, "APM Vol. 3, STGI";

        // Idle
        Hlt = 11 "hlt": ["hlt"] "" [Hlt] Always, 1 in 5, on, "SDM Vol. 2A, HLT";
        Monitor = 12 "monitor": ["monitor"] "" [Monitor] Always, 3 in 5, on, "SDM Vol. 2B, MONITOR";
        Mwait = 13 "mwait": ["mwait"] "" [Mwait] Always, 3 in 5, on, "SDM Vol. 2B, MWAIT";
        Monitorx = 14 "monitorx": ["monitorx"] "" [Monitorx] Always, 3 in 5, on, "APM Vol. 3, MONITORX";
        Mwaitx = 15 "mwaitx": ["mwaitx"] "" [Mwaitx] Always, 3 in 5, on, "APM Vol. 3, MWAITX";
        Umonitor = 16 "umonitor": ["umonitor"] "" [Umonitor] Always, 4 in 5, on, "SDM Vol. 2B, UMONITOR";
        Umwait = 17 "umwait": ["umwait"] "" [Umwait] Always, 4 in 5, on, "SDM Vol. 2B, UMWAIT";
        Tpause = 18 "tpause": ["tpause"] "" [Tpause] Always, 4 in 5, on, "SDM Vol. 2B, TPAUSE";

        // Control, debug and extended control registers
        MovFromCr = 19 "mov-from-cr": ["mov"] "lq" [Mov] Source(ControlRegisters), 3 in 5, on, "SDM Vol. 2B, MOV - Move to/from Control Registers";
        MovToCr = 20 "mov-to-cr": ["mov"] "lq" [Mov] Destination(ControlRegisters), 3 in 5, on, "SDM Vol. 2B, MOV - Move to/from Control Registers";
        MovFromDr = 21 "mov-from-dr": ["mov"] "lq" [Mov] Source(DebugRegisters), 3 in 5, on, "SDM Vol. 2B, MOV - Move to/from Debug Registers";
        MovToDr = 22 "mov-to-dr": ["mov"] "lq" [Mov] Destination(DebugRegisters), 3 in 5, on, "SDM Vol. 2B, MOV - Move to/from Debug Registers";
        Clts = 23 "clts": ["clts"] "" [Clts] Always, 2 in 5, on, "SDM Vol. 2A, CLTS";
        Smsw = 24 "smsw": ["smsw"] "wlq" [Smsw] Always, 3 in 5, on, "SDM Vol. 2B, SMSW";
        Lmsw = 25 "lmsw": ["lmsw"] "w" [Lmsw] Always, 3 in 5, on, "SDM Vol. 2A, LMSW";
        Xgetbv = 26 "xgetbv": ["xgetbv"] "" [Xgetbv] Always, 3 in 5, on, "SDM Vol. 2C, XGETBV";
        Xsetbv = 27 "xsetbv": ["xsetbv"] "" [Xsetbv] Always, 3 in 5, on, "SDM Vol. 2C, XSETBV";
        Xsaves = 28 "xsaves": ["xsaves", "xsaves64"] "" [Xsaves, Xsaves64] Always, 3 in 5, on, "SDM Vol. 2C, XSAVES";
        Xrstors = 29 "xrstors": ["xrstors", "xrstors64"] "" [Xrstors, Xrstors64] Always, 3 in 5, on, "SDM Vol. 2C, XRSTORS";
        Fxsave = 118 "fxsave": ["fxsave", "fxsave64"] "Q" [Fxsave, Fxsave64] Always, 3 in 5, on, "SDM Vol. 2A, FXSAVE";
        Fxrstor = 119 "fxrstor": ["fxrstor", "fxrstor64"] "Q" [Fxrstor, Fxrstor64] Always, 3 in 5, on, "SDM Vol. 2A, FXRSTOR";

        // Segments and descriptor tables
        MovFromSeg = 30 "mov-from-seg": ["mov"] "wlq" [Mov] Source(SegmentRegisters), 2 in 5, on, "SDM Vol. 2B, MOV";
        MovToSeg = 31 "mov-to-seg": ["mov"] "wlq" [Mov] Destination(SegmentRegisters), 2 in 5, on, "SDM Vol. 2B, MOV";
        PushSeg = 32 "push-seg": ["push"] "wlq" [Push] Source(SegmentRegisters), 2 in 5, on, "SDM Vol. 2B, PUSH";
        PopSeg = 33 "pop-seg": ["pop"] "wlq" [Pop] Destination(SegmentRegisters), 2 in 5, on, "SDM Vol. 2B, POP";
        Lss = 34 "lss": ["lss"] "wlq" [Lss] Always, 3 in 5, on, "SDM Vol. 2A, LDS/LES/LFS/LGS/LSS";
        Lfs = 35 "lfs": ["lfs"] "wlq" [Lfs] Always, 3 in 5, on, "SDM Vol. 2A, LDS/LES/LFS/LGS/LSS";
        Lgs = 36 "lgs": ["lgs"] "wlq" [Lgs] Always, 3 in 5, on, "SDM Vol. 2A, LDS/LES/LFS/LGS/LSS";
        Lkgs = 37 "lkgs": ["lkgs"] "" [Lkgs] Always, 4 in 5, on, "Intel FRED specification (346446), LKGS";
        Sgdt = 38 "sgdt": ["sgdt"] "wlq" [Sgdt] Always, 3 in 5, on, "SDM Vol. 2B, SGDT";
        Sidt = 39 "sidt": ["sidt"] "wlq" [Sidt] Always, 3 in 5, on, "SDM Vol. 2B, SIDT";
        Sldt = 40 "sldt": ["sldt"] "wlq" [Sldt] Always, 3 in 5, on, "SDM Vol. 2B, SLDT";
        Str = 41 "str": ["str"] "wlq" [Str] Always, 3 in 5, on, "SDM Vol. 2B, STR";
        Lgdt = 42 "lgdt": ["lgdt"] "wlq" [Lgdt] Always, 3 in 5, on, "SDM Vol. 2A, LGDT/LIDT";
        Lidt = 43 "lidt": ["lidt"] "wlq" [Lidt] Always, 3 in 5, on, "SDM Vol. 2A, LGDT/LIDT";
        Lldt = 44 "lldt": ["lldt"] "w" [Lldt] Always, 3 in 5, on, "SDM Vol. 2A, LLDT";
        Ltr = 45 "ltr": ["ltr"] "w" [Ltr] Always, 3 in 5, on, "SDM Vol. 2A, LTR";
        Lar = 46 "lar": ["lar"] "wlq" [Lar] Always, 3 in 5, on, "SDM Vol. 2A, LAR";
        Lsl = 47 "lsl": ["lsl"] "wlq" [Lsl] Always, 3 in 5, on, "SDM Vol. 2A, LSL";
        Verr = 48 "verr": ["verr"] "w" [Verr] Always, 3 in 5, on, "SDM Vol. 2B, VERR/VERW";
        Verw = 49 "verw": ["verw"] "w" [Verw] Always, 3 in 5, on, "SDM Vol. 2B, VERR/VERW";
        Rdfsbase = 50 "rdfsbase": ["rdfsbase"] "lQ" [Rdfsbase] Always, 4 in 5, on, "SDM Vol. 2B, RDFSBASE/RDGSBASE";
        Rdgsbase = 51 "rdgsbase": ["rdgsbase"] "lQ" [Rdgsbase] Always, 4 in 5, on, "SDM Vol. 2B, RDFSBASE/RDGSBASE";
        Wrfsbase = 52 "wrfsbase": ["wrfsbase"] "lQ" [Wrfsbase] Always, 4 in 5, on, "SDM Vol. 2D, WRFSBASE/WRGSBASE";
        Wrgsbase = 53 "wrgsbase": ["wrgsbase"] "lQ" [Wrgsbase] Always, 4 in 5, on, "SDM Vol. 2D, WRFSBASE/WRGSBASE";
        Swapgs = 54 "swapgs": ["swapgs"] "" [Swapgs] Always, 3 in 5, on, "SDM Vol. 2B, SWAPGS";

        // Transfers of control between privilege levels
        Int = 55 "int": ["int"] "" [Int] Vector, 2 in 5, on, "SDM Vol. 2A, INT n";
        // Left alone by default: a kernel uses INT3 as filler (after `ret`, between functions) and
        // to patch its own text.
        Int3 = 56 "int3": ["int3"] "" [Int3] Always, 1 in 5, off, "SDM Vol. 2A, INT3";
        Int1 = 57 "int1": ["int1", "icebp"] "" [Int1] Always, 1 in 5, on, "SDM Vol. 2A, INT1";
        Iret = 58 "iret": ["iret", "iretd"] "WlQ" [Iret, Iretd, Iretq] Always, 1 in 5, on, "SDM Vol. 2A, IRET/IRETD/IRETQ";
        Lret = 59 "lret": ["lret", "retf"] "WlQ" [Retf] Always, 1 in 5, on, "SDM Vol. 2B, RET (far)";
        Ljmp = 60 "ljmp": ["ljmp", "jmp"] "WlQ" [Jmp] Far, 2 in 5, on, "SDM Vol. 2A, JMP (far)";
        Lcall = 61 "lcall": ["lcall", "call"] "WlQ" [Call] Far, 2 in 5, on, "SDM Vol. 2A, CALL (far)";
        Syscall = 62 "syscall": ["syscall"] "" [Syscall] Always, 2 in 5, on, "SDM Vol. 2B, SYSCALL";
        Sysret = 63 "sysret": ["sysret"] "lQ" [Sysret, Sysretq] Always, 2 in 5, on, "SDM Vol. 2B, SYSRET";
        Sysenter = 64 "sysenter": ["sysenter"] "" [Sysenter] Always, 2 in 5, on, "SDM Vol. 2B, SYSENTER";
        Sysexit = 65 "sysexit": ["sysexit"] "lQ" [Sysexit, Sysexitq] Always, 2 in 5, on, "SDM Vol. 2B, SYSEXIT";
        Uiret = 66 "uiret": ["uiret"] "" [Uiret] Always, 4 in 5, on, "SDM Vol. 2B, UIRET";
        Erets = 67 "erets": ["erets"] "" [Erets] Always, 4 in 5, on, "Intel FRED specification (346446), ERETS";
        Eretu = 68 "eretu": ["eretu"] "" [Eretu] Always, 4 in 5, on, "Intel FRED specification (346446), ERETU";
        Rsm = 69 "rsm": ["rsm"] "" [Rsm] Always, 2 in 5, on, "SDM Vol. 2B, RSM";

        // Port I/O
        In = 70 "in": ["in"] "bWl" [In] Always, 1 in 5, on, "SDM Vol. 2A, IN";
        Out = 71 "out": ["out"] "bWl" [Out] Always, 1 in 5, on, "SDM Vol. 2B, OUT";
        Ins = 72 "ins": ["ins"] "bWld" [Insb, Insw, Insd] Always, 1 in 5, on, "SDM Vol. 2A, INS";
        Outs = 73 "outs": ["outs"] "bWld" [Outsb, Outsw, Outsd] Always, 1 in 5, on, "SDM Vol. 2B, OUTS";

        // Model-specific registers, identification, counters
        Rdmsr = 74 "rdmsr": ["rdmsr"] "" [Rdmsr] Always, 2 in 5, on, "SDM Vol. 2B, RDMSR";
        Wrmsr = 75 "wrmsr": ["wrmsr"] "" [Wrmsr] Always, 2 in 5, on, "SDM Vol. 2D, WRMSR";
        Wrmsrns = 76 "wrmsrns": ["wrmsrns"] "" [Wrmsrns] Always, 3 in 5, on, "SDM Vol. 2D, WRMSRNS";
        Rdmsrlist = 77 "rdmsrlist": ["rdmsrlist"] "" [Rdmsrlist] Always, 4 in 5, on, "SDM Vol. 2B, RDMSRLIST";
        Wrmsrlist = 78 "wrmsrlist": ["wrmsrlist"] "" [Wrmsrlist] Always, 4 in 5, on, "SDM Vol. 2D, WRMSRLIST";
        Cpuid = 79 "cpuid": ["cpuid"] "" [Cpuid] Always, 2 in 5, on, "SDM Vol. 2A, CPUID";
        Rdtsc = 80 "rdtsc": ["rdtsc"] "" [Rdtsc] Always, 2 in 5, on, "SDM Vol. 2B, RDTSC";
        Rdtscp = 81 "rdtscp": ["rdtscp"] "" [Rdtscp] Always, 3 in 5, on, "SDM Vol. 2B, RDTSCP";
        Rdpmc = 82 "rdpmc": ["rdpmc"] "" [Rdpmc] Always, 2 in 5, on, "SDM Vol. 2B, RDPMC";
        Rdpru = 83 "rdpru": ["rdpru"] "" [Rdpru] Always, 3 in 5, on, "APM Vol. 3, RDPRU";
        Rdpid = 84 "rdpid": ["rdpid"] "" [Rdpid] Always, 4 in 5, on, "SDM Vol. 2B, RDPID";
        Rdpkru = 85 "rdpkru": ["rdpkru"] "" [Rdpkru] Always, 3 in 5, on, "SDM Vol. 2B, RDPKRU";
        Wrpkru = 86 "wrpkru": ["wrpkru"] "" [Wrpkru] Always, 3 in 5, on, "SDM Vol. 2D, WRPKRU";
        Hreset = 87 "hreset": ["hreset"] "" [Hreset] Always, 6 in 6, on, "SDM Vol. 2A, HRESET";
        Pconfig = 88 "pconfig": ["pconfig"] "" [Pconfig] Always, 3 in 5, on, "SDM Vol. 2B, PCONFIG";
        Enqcmds = 89 "enqcmds": ["enqcmds"] "" [Enqcmds] Always, 5 in 5, on, "SDM Vol. 2A, ENQCMDS";
        Senduipi = 90 "senduipi": ["senduipi"] "" [Senduipi] Always, 4 in 5, on, "SDM Vol. 2B, SENDUIPI";

        // TLB and caches
        Invlpg = 91 "invlpg": ["invlpg"] "" [Invlpg] Always, 3 in 5, on, "SDM Vol. 2A, INVLPG";
        Invpcid = 92 "invpcid": ["invpcid"] "" [Invpcid] Always, 5 in 5, on, "SDM Vol. 2A, INVPCID";
        Invd = 93 "invd": ["invd"] "" [Invd] Always, 2 in 5, on, "SDM Vol. 2A, INVD";
        Wbinvd = 94 "wbinvd": ["wbinvd"] "" [Wbinvd] Always, 2 in 5, on, "SDM Vol. 2D, WBINVD";
        Wbnoinvd = 95 "wbnoinvd": ["wbnoinvd"] "" [Wbnoinvd] Always, 3 in 5, on, "SDM Vol. 2D, WBNOINVD";
        Invlpga = 96 "invlpga": ["invlpga"] "" [Invlpga] Always, 3 in 5, on, "APM Vol. 3, INVLPGA";
        Invlpgb = 97 "invlpgb": ["invlpgb"] "" [Invlpgb] Always, 3 in 5, on, "APM Vol. 3, INVLPGB";
        Tlbsync = 98 "tlbsync": ["tlbsync"] "" [Tlbsync] Always, 3 in 5, on, "APM Vol. 3, TLBSYNC";

        // Shadow stacks
        Wruss = 99 "wruss": ["wrussd", "wrussq"] "" [Wrussd, Wrussq] Always, 5 in 5, on, "SDM Vol. 2D, WRUSSD/WRUSSQ";
        Setssbsy = 100 "setssbsy": ["setssbsy"] "" [Setssbsy] Always, 4 in 5, on, "SDM Vol. 2B, SETSSBSY";
        Clrssbsy = 101 "clrssbsy": ["clrssbsy"] "" [Clrssbsy] Always, 4 in 5, on, "SDM Vol. 2A, CLRSSBSY";

        // Enclaves, measured launch, memory encryption
        Encls = 102 "encls": ["encls"] "" [Encls] Always, 3 in 5, on, "SDM Vol. 3D, ENCLS";
        Enclv = 103 "enclv": ["enclv"] "" [Enclv] Always, 3 in 5, on, "SDM Vol. 3D, ENCLV";
        Getsec = 104 "getsec": ["getsec"] "" [Getsecq, Getsec] Always, 2 in 5, on, "SDM Vol. 2D, Chapter 7, GETSEC";
        Seamcall = 105 "seamcall": ["seamcall"] "" [Seamcall] Always, 4 in 5, on, "Intel TDX CPU Architectural Specification (343754), SEAMCALL";
        Seamops = 106 "seamops": ["seamops"] "" [Seamops] Always, 4 in 5, on, "Intel TDX CPU Architectural Specification (343754), SEAMOPS";
        Seamret = 107 "seamret": ["seamret"] "" [Seamret] Always, 4 in 5, on, "Intel TDX CPU Architectural Specification (343754), SEAMRET";
        Tdcall = 108 "tdcall": ["tdcall"] "" [Tdcall] Always, 4 in 5, on, "Intel TDX CPU Architectural Specification (343754), TDCALL";
        Psmash = 109 "psmash": ["psmash"] "" [Psmash] Always, 4 in 5, on, "APM Vol. 3, PSMASH";
        Pvalidate = 110 "pvalidate": ["pvalidate"] "" [Pvalidate] Always, 4 in 5, on, "APM Vol. 3, PVALIDATE";
        Rmpadjust = 111 "rmpadjust": ["rmpadjust"] "" [Rmpadjust] Always, 4 in 5, on, "APM Vol. 3, RMPADJUST";
        Rmpupdate = 112 "rmpupdate": ["rmpupdate"] "" [Rmpupdate] Always, 4 in 5, on, "APM Vol. 3, RMPUPDATE";

        // Virtual machines
        Vmcall = 113 "vmcall": ["vmcall"] "" [Vmcall] Always, 3 in 5, on, "SDM Vol. 3C, Chapter 31, VMCALL";
        Vmmcall = 114 "vmmcall": ["vmmcall", "vmgexit"] "" [Vmmcall, Vmgexit] Always, 3 in 5, on, "APM Vol. 3, VMMCALL, VMGEXIT";
        Vmfunc = 115 "vmfunc": ["vmfunc"] "" [Vmfunc] Always, 3 in 5, on, "SDM Vol. 3C, Chapter 31, VMFUNC";
        Vmx = 116 "vmx": [
            "vmclear", "vmlaunch", "vmresume", "vmptrld", "vmptrst", "vmread", "vmwrite", "vmxon", "vmxoff", "invept", "invvpid"
        ] "lq" [
            Vmclear, Vmlaunch, Vmresume, Vmptrld, Vmptrst, Vmread, Vmwrite, Vmxon, Vmxoff, Invept, Invvpid
        ] Always, 3 in 5, on, "SDM Vol. 3C, Chapter 31, VMX Instruction Reference";
        Svm = 117 "svm": ["vmrun", "vmload", "vmsave", "skinit"] "" [Vmrun, Vmload, Vmsave, Skinit] Always, 3 in 5, on, "APM Vol. 3, VMRUN, VMLOAD, VMSAVE, SKINIT";
    }
    sequences {
        PushfPop = 200 "pushf;pop": Part::Class(Class::Pushf), Part::PopRegister, in 7, "the flags image to a register";
        PushPopf = 201 "push;popf": Part::PushRegister, Part::Class(Class::Popf), in 5, "the flags image from a register";
        StiHlt = 202 "sti;hlt": Part::Class(Class::Sti), Part::Class(Class::Hlt), in 5, "HLT in the interrupt shadow of STI";
        StiMwait = 203 "sti;mwait": Part::Class(Class::Sti), Part::Class(Class::Mwait), in 5, "MWAIT in the interrupt shadow of STI";
        ForcedEmulation = 204 "forced-emulation": Part::EmulationPrefix, Part::Any, in 5, "what a hypervisor is to emulate";
    }
}

impl core::fmt::Display for Class {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(self.name())
    }
}

impl Class {
    /// The class of this name, as options and reports spell it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|class| class.name() == name)
    }
}

/// The row of a sensitive instruction, `None` for any other. Prefixes do not matter.
#[must_use]
pub fn row_of(instruction: &Instruction) -> Option<&'static Row> {
    let mnemonic = instruction.mnemonic();
    TABLE.iter().find(|row| row.decoded.contains(&mnemonic) && row.when.holds(instruction))
}

impl When {
    fn holds(self, instruction: &Instruction) -> bool {
        let operand_in = |operand: u32, file: RegisterFile| {
            instruction.op_kind(operand) == OpKind::Register && file.holds(instruction.op_register(operand))
        };
        match self {
            Self::Always | Self::Vector => true,
            Self::Source(file) => operand_in(instruction.op_count() - 1, file),
            Self::Destination(file) => operand_in(0, file),
            Self::Far => {
                instruction.is_jmp_far()
                    || instruction.is_jmp_far_indirect()
                    || instruction.is_call_far()
                    || instruction.is_call_far_indirect()
            }
        }
    }
}

impl Part {
    /// Whether the instruction is this half of a sequence.
    #[must_use]
    pub fn matches(self, instruction: &Instruction) -> bool {
        match self {
            Self::Class(class) => row_of(instruction).is_some_and(|row| row.class == class),
            Self::PushRegister => instruction.mnemonic() == Mnemonic::Push && instruction.op0_register().is_gpr(),
            Self::PopRegister => instruction.mnemonic() == Mnemonic::Pop && instruction.op0_register().is_gpr(),
            Self::EmulationPrefix => {
                instruction.code() == Code::Ud2 && instruction.len() == EMULATION_PREFIXES[0].len()
            }
            Self::Any => !instruction.is_invalid(),
        }
    }
}

/// The sequence of this class, `None` if the class is that of a single instruction.
#[must_use]
pub fn sequence(class: Class) -> Option<&'static Sequence> {
    SEQUENCES.iter().find(|sequence| sequence.class == class)
}

/// A set of classes: which are annotated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClassSet([u64; 4]);

impl ClassSet {
    /// No class.
    pub const EMPTY: Self = Self([0; 4]);

    /// Whether the class is in the set.
    #[must_use]
    pub fn contains(&self, class: Class) -> bool {
        let number = class as usize;
        self.0[number / 64] & (1 << (number % 64)) != 0
    }

    /// Adds a class.
    pub fn insert(&mut self, class: Class) {
        let number = class as usize;
        self.0[number / 64] |= 1 << (number % 64);
    }

    /// Takes a class out, and with it the sequences that it is part of.
    pub fn remove(&mut self, class: Class) {
        let number = class as usize;
        self.0[number / 64] &= !(1 << (number % 64));
        for sequence in SEQUENCES {
            if [sequence.first, sequence.second].contains(&Part::Class(class)) {
                self.remove(sequence.class);
            }
        }
    }

    /// The classes of the set, in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = Class> {
        Class::ALL.iter().copied().filter(|&class| self.contains(class))
    }
}

impl Default for ClassSet {
    /// The classes that are annotated unless the user says otherwise.
    fn default() -> Self {
        let mut set = Self::EMPTY;
        for class in Class::ALL {
            if TABLE.iter().all(|row| row.class != *class || row.by_default) {
                set.insert(*class);
            }
        }
        set
    }
}

impl core::fmt::Debug for ClassSet {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
