//! What the CPU says of itself (SDM Vol. 2A, CPUID; APM Vol. 3, appendix E).
//!
//! The guest is shown the real processor, less what the virtual one does not do. A leaf is zero
//! unless it is listed in `PASSED`; of those that are, `ROWS` say what is kept, hidden or added.
//! Where manuals still grow (leaf 7), the row names what is known to be harmless in ring 3; where
//! they do not, it names what must be hidden.
//!
//! What a guest is not told of, it does not use; that is all that hiding does. An instruction that
//! runs in ring 3 does so whether CPUID names it or not.

use super::{Host, VirtualCpu};
use crate::x86::control::{cr4, xcr0};

/// What CPUID returns.
#[expect(missing_docs, reason = "the architecture's names")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidResult {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// A register of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

impl CpuidResult {
    pub(super) const fn get(&self, register: Register) -> u32 {
        match register {
            Register::Eax => self.eax,
            Register::Ebx => self.ebx,
            Register::Ecx => self.ecx,
            Register::Edx => self.edx,
        }
    }

    fn apply(&mut self, register: Register, rule: Rule) {
        let value = match register {
            Register::Eax => &mut self.eax,
            Register::Ebx => &mut self.ebx,
            Register::Ecx => &mut self.ecx,
            Register::Edx => &mut self.edx,
        };
        match rule {
            Rule::Keep(mask) => *value &= mask,
            Rule::Hide(bits) => *value &= !bits,
            Rule::Show(bits) => *value |= bits,
            Rule::AtMost(limit) => *value = (*value).min(limit),
        }
    }
}

/// What becomes of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// Only these bits pass.
    Keep(u32),
    /// These bits are cleared.
    Hide(u32),
    /// These bits are set.
    Show(u32),
    /// The value is no greater than this.
    AtMost(u32),
}

/// Leaf, subleaf (`None`: all), register, rule.
type Row = (u32, Option<u32>, Register, Rule);

/// The mask of some bits.
const fn bits(numbers: &[u32]) -> u32 {
    let mut mask = 0;
    let mut at = 0;
    while at < numbers.len() {
        mask |= 1 << numbers[at];
        at += 1;
    }
    mask
}

/// Leaves that are not zero. Left out: 3 (serial number), 5 (MONITOR), 6 (power), 9 (DCA), A
/// (performance counters), B and 1F (topology), F, 10 (resource control), 12 (SGX), 14 (trace),
/// 17-1E; of AMD's A (SVM), 1B-20 (IBS, topology, SEV, ...).
const PASSED: &[u32] = &[
    0,
    1,
    // Caches; of this one CPU.
    2,
    4,
    7,
    0xd,
    // The rate of the time-stamp counter, which is the host's.
    0x15,
    0x16,
    0x8000_0000,
    0x8000_0001,
    0x8000_0002,
    0x8000_0003,
    0x8000_0004,
    0x8000_0005,
    0x8000_0006,
    0x8000_0007,
    0x8000_0008,
    0x8000_0019,
    0x8000_001a,
    0x8000_0021,
];

use Register::{Eax, Ebx, Ecx, Edx};
use Rule::{AtMost, Hide, Keep, Show};

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // No leaf behind the last that passes. The last extended one is always there, for what is shown
    // of it.
    (0, None, Eax, AtMost(0x16)),
    (0x8000_0000, None, Eax, Keep(0)),
    (0x8000_0000, None, Eax, Show(0x8000_0021)),

    // Brand and CLFLUSH size stay; the number of logical CPUs and the APIC's identifier do not: one
    // CPU, no APIC.
    (1, None, Ebx, Keep(0xffff)),
    // Debug store (DTES64, DS-CPL): its buffer would be the host's.
    (1, None, Ecx, Hide(bits(&[2, 4]))),
    // MONITOR: #UD in ring 3. A guest idles with HLT.
    (1, None, Ecx, Hide(bits(&[3]))),
    // VMX, SMX: no nested virtualization, no measured launch.
    (1, None, Ecx, Hide(bits(&[5, 6]))),
    // Power and heat are the host's: EIST, TM2, L1 context ID.
    (1, None, Ecx, Hide(bits(&[7, 8, 10]))),
    // MSRs of the silicon that do not exist here: SDBG, xTPR, PDCM (performance), DCA.
    (1, None, Ecx, Hide(bits(&[11, 14, 15, 18]))),
    // PCIDs are emulated: tagged shadow tables save flushes whether the processor has tags or not.
    (1, None, Ecx, Show(bits(&[17]))),
    // x2APIC and the TSC deadline need a local APIC.
    (1, None, Ecx, Hide(bits(&[21, 24]))),
    // OSXSAVE mirrors CR4 and is added last. The guest is not told of a hypervisor that it cannot
    // talk to.
    (1, None, Ecx, Hide(bits(&[27, 31]))),
    // VME: flags that are virtualized at CPL 3 are not modelled.
    (1, None, Edx, Hide(bits(&[1]))),
    // Machine checks (MCE, MCA) go to the host.
    (1, None, Edx, Hide(bits(&[7, 14]))),
    // No local APIC.
    (1, None, Edx, Hide(bits(&[9]))),
    // Memory types: MTRRs are the host's, and a host's PAT may differ from the architecture's in
    // its upper half.
    (1, None, Edx, Hide(bits(&[12, 16]))),
    // Serial number, debug store, thermal control (ACPI, TM, PBE).
    (1, None, Edx, Hide(bits(&[18, 21, 22, 29, 31]))),
    // One logical CPU.
    (1, None, Edx, Hide(bits(&[28]))),

    // Bits 31:14: how many CPUs share the cache, how many cores there are, less 1.
    (4, None, Eax, Keep(0x3fff)),

    (7, Some(0), Eax, AtMost(1)),
    // FSGSBASE, BMI, AVX2, FDP, ERMS, FPU CS/DS, AVX-512, RDSEED, ADX, CLFLUSHOPT, CLWB, SHA. Not:
    // TSC_ADJUST, SGX, HLE and RTM, SMEP and SMAP (ring 3 is user mode to the real tables),
    // resource control, MPX, trace.
    (7, Some(0), Ebx, Keep(bits(&[0, 3, 5, 6, 8, 9, 13, 16, 17, 18, 19, 21, 23, 24, 26, 27, 28, 29, 30, 31]))),
    // INVPCID: with the PCIDs.
    (7, Some(0), Ebx, Show(bits(&[10]))),
    // AVX-512, GFNI, VAES, VPCLMULQDQ, RDPID, CLDEMOTE, MOVDIRI, MOVDIR64B. Not: UMIP (SGDT and the
    // like answer with the real tables in ring 3), protection keys, WAITPKG, CET, LA57, key locker,
    // bus-lock detection, ENQCMD, SGX_LC, PKS.
    (7, Some(0), Ecx, Keep(bits(&[1, 6, 8, 9, 10, 11, 12, 14, 22, 25, 27, 28]))),
    // AVX-512, FSRM, MD_CLEAR (VERW runs in ring 3), SERIALIZE. Not: AMX (needs XFD), UINTR,
    // CET_IBT, hybrid, PCONFIG, LBRs, and the MSRs of speculation control, which are the host's to
    // use.
    (7, Some(0), Edx, Keep(bits(&[2, 3, 4, 8, 10, 14, 23]))),
    // SHA512, SM3, SM4, AVX_VNNI, BF16, CMPccXADD, fast string moves, AVX_IFMA. Not: LAM, FRED,
    // LASS, WRMSRNS, MSRLIST.
    (7, Some(1), Eax, Keep(bits(&[0, 1, 2, 4, 5, 7, 10, 11, 12, 23]))),
    (7, Some(1), Ebx, Keep(0)),
    (7, Some(1), Ecx, Keep(0)),
    // AVX_VNNI_INT8, AVX_NE_CONVERT, AVX_VNNI_INT16, PREFETCHI.
    (7, Some(1), Edx, Keep(bits(&[4, 5, 10, 14]))),

    // State that XCR0 can enable. Not: MPX, PKRU, AMX. The sizes are those of what is virtually
    // enabled ([`state_size`]).
    (0xd, Some(0), Eax, Keep(xcr0::ALL as u32)),
    (0xd, Some(0), Edx, Keep(0)),
    // XSAVEOPT, XSAVEC, XGETBV of 1. Not: XSAVES, which is privileged, and XFD.
    (0xd, Some(1), Eax, Keep(bits(&[0, 1, 2]))),
    (0xd, Some(1), Ecx, Keep(0)),
    (0xd, Some(1), Edx, Keep(0)),

    // SVM, extended APIC space, OSVW, IBS, SKINIT, watchdog, LWP: MSRs and instructions of the
    // host.
    (0x8000_0001, None, Ecx, Hide(bits(&[2, 3, 9, 10, 12, 13, 15]))),
    // One CPU: CmpLegacy, node identifier, topology.
    (0x8000_0001, None, Ecx, Hide(bits(&[1, 19, 22]))),
    // Performance counters, breakpoint extension; MONITORX as MONITOR.
    (0x8000_0001, None, Ecx, Hide(bits(&[23, 24, 26, 27, 28, 29, 30, 31]))),
    // As in leaf 1: VME, MCE, APIC, MTRR, MCA, PAT; MP. FFXSR would have to be set in the real
    // EFER.
    (0x8000_0001, None, Edx, Hide(bits(&[1, 7, 9, 12, 14, 16, 19, 25]))),

    // No machine-check extensions, no power reporting; but the counter's rate is constant, since
    // the host's is.
    (0x8000_0007, None, Eax, Keep(0)),
    (0x8000_0007, None, Ebx, Keep(0)),
    (0x8000_0007, None, Ecx, Keep(0)),
    (0x8000_0007, None, Edx, Keep(bits(&[8]))),
    // Linear addresses have 48 bits, since there is no LA57; there are no guests whose physical
    // ones would be counted.
    (0x8000_0008, None, Eax, Keep(0xff)),
    (0x8000_0008, None, Eax, Show(48 << 8)),
    // CLZERO, XSAVEERPTR. Not: RDPRU, INVLPGB, WBNOINVD, and speculation control.
    (0x8000_0008, None, Ebx, Keep(bits(&[0, 2]))),
    // One core.
    (0x8000_0008, None, Ecx, Keep(0)),
    (0x8000_0008, None, Edx, Keep(0)),
    // LFENCE serializes. Not: automatic IBRS, microcode, MSRs. A null selector clears the base:
    // loads are emulated so. A guest that is told otherwise loads GS with another selector first,
    // in text that cannot be rewritten (Linux 6.1, `asm_load_gs_index`).
    (0x8000_0021, None, Eax, Keep(bits(&[2]))),
    (0x8000_0021, None, Eax, Show(bits(&[6]))),
    (0x8000_0021, None, Ebx, Keep(0)),
    (0x8000_0021, None, Ecx, Keep(0)),
    (0x8000_0021, None, Edx, Keep(0)),
];

/// CPUID as the guest sees it.
pub fn cpuid(cpu: &VirtualCpu, host: &mut impl Host, leaf: u32, subleaf: u32) -> CpuidResult {
    let mut result = policy(host, leaf, subleaf);
    if leaf == 1 && cpu.cr4 & cr4::OSXSAVE != 0 {
        result.ecx |= bits(&[27]);
    }
    if leaf == 0xd && subleaf < 2 && result != CpuidResult::default() {
        result.ebx = state_size(host, cpu.xcr0, subleaf == 1);
        if subleaf == 0 {
            result.ecx = state_size(host, cpu.limits.xcr0, false);
        }
    }
    result
}

/// How many bytes XSAVE writes of these components, or XSAVEC does (SDM Vol. 1, 13.4.2, 13.4.3):
/// the processor says it of what is really enabled, which some hosts do not change.
fn state_size(host: &mut impl Host, components: u64, compacted: bool) -> u32 {
    /// Of x87 and SSE, and the header.
    const LEGACY: u32 = 512 + 64;
    const ALIGNED: u32 = 1 << 1;
    let mut size = LEGACY;
    for component in (2..63).filter(|component| components >> component & 1 != 0) {
        let of = host.raw_cpuid(0xd, component);
        size = match compacted {
            false => size.max(of.ebx.saturating_add(of.eax)),
            true if of.ecx & ALIGNED != 0 => size.next_multiple_of(64).saturating_add(of.eax),
            true => size.saturating_add(of.eax),
        };
    }
    size
}

/// What does not change while the CPU runs.
pub(super) fn policy(host: &mut impl Host, leaf: u32, subleaf: u32) -> CpuidResult {
    if !PASSED.contains(&leaf) || !subleaf_passes(leaf, subleaf) {
        return CpuidResult::default();
    }
    let mut result = existing(host, leaf, subleaf);
    for &(of_leaf, of_subleaf, register, rule) in ROWS {
        if of_leaf == leaf && of_subleaf.is_none_or(|number| number == subleaf) {
            result.apply(register, rule);
        }
    }
    result
}

/// What the processor says; nothing of a leaf behind its last, of which it may say anything (SDM
/// Vol. 2A, CPUID).
fn existing(host: &mut impl Host, leaf: u32, subleaf: u32) -> CpuidResult {
    let last = host.raw_cpuid(leaf & 0x8000_0000, 0).eax;
    match leaf {
        _ if leaf <= last => host.raw_cpuid(leaf, subleaf),
        // Physical addresses have 36 bits then (SDM Vol. 3A, 4.1.4).
        0x8000_0008 => CpuidResult { eax: 36, ..CpuidResult::default() },
        _ => CpuidResult::default(),
    }
}

/// Leaf 7 has two subleaves; leaf D has two and one for each state component that passes.
const fn subleaf_passes(leaf: u32, subleaf: u32) -> bool {
    match leaf {
        7 => subleaf < 2,
        0xd => subleaf < 2 || (subleaf < 64 && xcr0::ALL >> subleaf & 1 != 0),
        _ => true,
    }
}
