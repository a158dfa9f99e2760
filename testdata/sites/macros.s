# Sites in macro bodies, in macro arguments, and those that a parameter decides.
	.macro alternative old, new, feature
140:
	\old
141:
	.pushsection .altinstr_replacement, "ax"
143:
	\new
144:
	.popsection
	.endm
	.macro disable
	cli				# site: cli
	.endm
	.macro switch scratch:req
	mov	%cr3, \scratch		# site: mov-from-cr
	or	$1, \scratch
	mov	\scratch, %cr3		# site: mov-to-cr
	.endm
	.macro safe_regs op
\op\()_safe_regs:
1:	\op				# site: dispatched
	ret
	.endm
	.macro move from, to
	mov	\from, \to		# site: dispatched
	.endm
	.macro outer reg
	move	\reg, %rax
	.endm
	.macro harmless op, reg
	\op	\reg
	mov	\reg, %rax
	.endm
	.macro sized suffix
	in\suffix %dx, %al		# site: dispatched
	.endm
	.macro keyword first=%rax, second
	push	\second			# site: dispatched
	pop	\first
	.endm

	.text
	disable
	disable
	switch	%rax
	switch	scratch=%r12
	alternative "", "stac", 1		# site: stac
	alternative "lfence; rdtsc", ".byte 0x0f, 0x01, 0xca; nop", 2	# site: rdtsc, clac
	alternative "nop", "", 3
	safe_regs rdmsr
	safe_regs wrmsr
	safe_regs nop
	move	%rax, %cr3
	move	%rax, %rbx
	move	%cr0, %rbx
	outer	%cr2
	outer	%rdi
	harmless inc, %rax
	harmless "dec", %rbx
	sized	b
	sized	"b"
	keyword	second=%fs
	keyword	second=%rdi
	.irp register, %ds, %rdi
	mov	\register, %rax		# site: dispatched
	.endr
	.rept 3
	swapgs				# site: swapgs
	.endr
	.irp op, sti, nop
	\op				# site: dispatched
	.endr
