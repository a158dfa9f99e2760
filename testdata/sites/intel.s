# Intel syntax, with and without the registers' prefix; and AT&T syntax without it.
	.intel_syntax noprefix
	.text
	cli				# site: cli
	mov	rax, cr0		# site: mov-from-cr
	mov	cr3, rdi		# site: mov-to-cr
	mov	dr7, rax		# site: mov-to-dr
	mov	eax, ds			# site: mov-from-seg
	mov	WORD PTR [rdi+2], gs	# site: mov-from-seg
	mov	es, [rip+selector]	# site: mov-to-seg
	push	fs			# site: push-seg
	pushfq ; pop rax		# site: pushf;pop
	push r9 ; popfq			# site: push;popf
	in	al, dx			# site: in
	out	0x80, al		# site: out
	rep insb			# site: ins
	lgdt	[rip+selector]		# site: lgdt
	iretq				# site: iret
.Lbehind1:
	retf				# site: lret
.Lbehind2:
	jmp	FWORD PTR [rdi]		# site: ljmp
.Lbehind3:
	mov	al, ';'
	invlpg	[rdi]			# site: invlpg
	.intel_syntax prefix
	mov	%rax, %cr2		# site: mov-from-cr
	.att_syntax noprefix
	mov	cr4, rax		# site: mov-from-cr
	mov	rax, cr4		# site: mov-to-cr
	.macro	move from
	mov	edx, \from		# site: dispatched
	.endm
	move	ds
	move	eax
	.att_syntax prefix
	mov	%cr4, %rax		# site: mov-from-cr
	.data
selector: .long 0
	.quad	.Lbehind1
	.quad	.Lbehind2
	.quad	.Lbehind3
