# Where a site stands, and what that says of it.
	.section .init.text, "ax", @progbits
	cli				# site: cli init
	.pushsection .altinstr_replacement, "ax"
	stac				# site: stac replacement
	.pushsection .rodata
	cli
	.popsection
	clac				# site: clac replacement
	.popsection
	sti				# site: sti init shadow
	.section .head.text, "ax"
	lgdt	(%rdi)			# site: lgdt head
	.previous
	hlt				# site: hlt init
	.section .entry.text, "ax"
	swapgs				# site: swapgs no-stack
	.section .init.text
	cli				# site: cli init
	.text 1
	cli				# site: cli
	.subsection 0
	cli				# site: cli
	.section ".text.unlikely"
	cli				# site: cli
	.text
relocate_kernel:
	mov	%rdi, %cr3		# site: mov-to-cr copied
ftrace_regs_caller_jmp:
	popfq				# site: popf copied
elsewhere:
	mov	%rdi, %cr3		# site: mov-to-cr
1:	rdmsr				# site: rdmsr extable
2:	nop
	.section __ex_table, "a"
	.long	1b - ., 2b - ., 0
	.previous
3:	wrmsr				# site: wrmsr
	.pushsection __ex_table, "a"
	.balign	4
	.long	(2b) - .
	.long	(3b) - .
	.long	0
	.popsection
	.pushsection .fixup, "ax"
	jmp	3b
	.popsection
1:	cli				# site: cli
1:	rdmsr				# site: rdmsr extable
	.pushsection __ex_table, "a"
	.long	1b - ., 1b - ., 0
	.popsection
.Ltmp5:
	rdmsr				# site: rdmsr extable
	.section "__ex_table", "a"
	.long	.Ltmp5 - ., .Ltmp5 - ., 0
	.text
	.code32
	cli				# site: cli code32
	mov	%eax, %cr0		# site: mov-to-cr code32
	.code64
	cli				# site: cli
	.skip 100
before:
	nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop
	jmp	. + 3
	cli				# site: cli counted
	nop
	nop
	.section .text.other, "ax"
	.subsection 1
	cli				# site: cli
	.previous
	sti				# site: sti
	.section .rodata
	.quad	before
