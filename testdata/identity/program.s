# A program with annotated sites of every kind that the identity patcher tells apart. It ends with status 42 if each
# instruction did what it should.

	.set REPLACEMENT, 1 << 2
	.set COPIED, 1 << 3
	.set SWITCHED_OFF, 1 << 9

# The record of the site at `site`.
	.macro record site, length, slot, flags=0, name
	.pushsection .note.afterburn, "a", @note
	.balign 4
	.long 12, 12, 1
	.ascii "Afterburner\0"
	# A site that is not padded is displaced by 1 GiB.
	.long \site - . + ((\flags) / SWITCHED_OFF << 30)
	.byte \length, \slot, 0, 127
	.short 0xffff
	.ifnb \name
\name:
	.endif
	.short \flags
	.popsection
	.endm

# A site of one instruction or sequence.
	.macro annotated instruction
771:	\instruction
772:	.nops 5 - (772b - 771b)
	.endm

	.macro alternative original, original_end, replacement, replacement_end
	.pushsection .altinstructions, "a"
	.long \original - ., \replacement - .
	.short 0
	.byte \original_end - \original, \replacement_end - \replacement
	.popsection
	.endm

	.macro exception instruction, fixup
	.pushsection __ex_table, "a"
	.long \instruction - ., \fixup - ., 0
	.popsection
	.endm

	.text
	.globl _start
_start:
	# A sequence that needs the stack as it is: carry must come out set.
	stc
	annotated "pushfq; pop %rbx"
	record 771b, 2, 5
	test $1, %bl
	jz wrong

	# Reads memory by RIP: a selector of 0 is not usable, so ZF comes out clear.
	xor %eax, %eax
faulting:
	verw selector(%rip)
	record faulting, 7, 7
	exception faulting, wrong
	jz wrong

	xor %eax, %eax
	annotated "cpuid"
	record 771b, 2, 5
	test %eax, %eax
	jz wrong

	mov $0x203, %ebx
	clc
	annotated "push %rbx; popfq"
	record 771b, 2, 5
	jnc wrong

	annotated "mov %cs, %eax"
	record 771b, 2, 5
	cmp $0x33, %eax
	jne wrong

unpadded:
	rdtsc
	record unpadded, 2, 2, SWITCHED_OFF

ftrace_caller:
	annotated "rdtsc"
	record ftrace_caller, 2, 5, COPIED, copied_flags
ftrace_caller_end:

original:
	annotated "rdtsc"
original_end:
	record original, 2, 5
	alternative original, original_end, replacement, replacement_end

	# As if apply_alternatives had copied the first replacement.
	call replacement_as_function

	mov $60, %eax
	mov $42, %edi
	.byte 0x0f, 0x05
wrong:
	mov $60, %eax
	mov $1, %edi
	.byte 0x0f, 0x05

replacement_as_function:
	lea replacement(%rip), %rax
	xor %ecx, %ecx
	jmp *%rax

faulting_original:
	.nops 5
faulting_original_end:
	exception faulting_original, wrong

	.section .altinstr_replacement, "ax"
replacement:
	annotated "lsl %ecx, %ecx"
replacement_end:
	record replacement, 3, 5, REPLACEMENT
	ret

long_replacement:
	lfence
	annotated "rdtsc"
long_replacement_end:
	record 771b, 2, 5, REPLACEMENT
	alternative original, original_end, long_replacement, long_replacement_end

stack_replacement:
	annotated "pushfq; pop %rax"
stack_replacement_end:
	record stack_replacement, 2, 5, REPLACEMENT
	alternative original, original_end, stack_replacement, stack_replacement_end

faulting_replacement:
	annotated "rdtsc"
faulting_replacement_end:
	record faulting_replacement, 2, 5, REPLACEMENT
	alternative faulting_original, faulting_original_end, faulting_replacement, faulting_replacement_end

	.data
selector:
	.short 0
