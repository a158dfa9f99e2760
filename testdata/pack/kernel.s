# The parts of a Linux kernel that `afterburner pack` looks at.

	.set NO_STACK, 1 << 1
	.set REPLACEMENT, 1 << 2
	.set CODE32, 1 << 8

	# The record of the site from 771 to 773, whose instruction ends at 772; and the class's number.
	.macro record class, flags=0
	.pushsection .note.afterburn, "a", @note
	.balign 4
	.long 12, 12, 1
	.asciz "Afterburner"
	# A site that is not padded is displaced by 1 GiB.
	.long 771b - . + ((\flags) / CODE32 << 30)
	.byte 772b - 771b, 773b - 771b, \class, 127
	.short 0xffff, \flags
	.popsection
	.endm

	.macro site instruction, slot, class, flags=0
771:	\instruction
772:	.nops \slot - (772b - 771b)
773:
	record \class, \flags
	.endm

	.macro alternative original, original_end, replacement, replacement_end
	.pushsection .altinstructions, "a"
	.long \original - ., \replacement - .
	.short 0
	.byte \original_end - \original, \replacement_end - \replacement
	.popsection
	.endm

	.text
	.globl _start
_start:
	site cli, 7, 1
first:
	.nops 5
first_end:
	alternative first, first_end, short, short_end
	alternative first, first_end, long, long_end
second:
	.nops 8
second_end:
	alternative second, second_end, short, short_end
	site swapgs, 5, 54
	ret
	site iretq, 5, 58
	.code32
771:	rdmsr
772:
773:
	record 74, CODE32
	.code64

	.section .altinstr_replacement, "ax"
short:
	site clac, 5, 5, REPLACEMENT
short_end:
long:
	lfence
	site rdtsc, 5, 80, REPLACEMENT
long_end:

	.section .note.Xen, "a", @note
	.long 4, 8, 18
	.asciz "Xen"
	.quad phys_start

	.data
	.balign 4096
	.globl init_top_pgt, level3_kernel_pgt, level2_kernel_pgt, next_page
init_top_pgt:
	.skip 4096 * TOP_PAGES
next_page:
level3_kernel_pgt:
	.skip 4096
level2_kernel_pgt:
	.set page, 0
	.rept LARGE_PAGES
	.quad page + 0x1e3
	.set page, page + (1 << 21)
	.endr
	.balign 4096

	.bss
	.skip 0x12345
