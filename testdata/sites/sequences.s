# Two instructions in one slot.
	.text
	.cfi_startproc
	pushf ; pop %rax		# site: pushf;pop
	pushfq
	popq	%r12			# site-start: pushf;pop
	# a comment does not part them
	pushf
	# one more

	pop	%rbx			# site-start: pushf;pop
	push %rdi ; popf		# site: push;popf
	pushq	%r9
	popfq				# site-start: push;popf
	sti; hlt			# site: sti;hlt
	sti
	hlt				# site-start: sti;hlt
	sti; mwait			# site: sti;mwait
	sti; .byte 0x0f, 0x01, 0xc9	# site: sti;mwait
	sti
	.byte	15
	.byte	1
	.byte	201			# site-start: sti;mwait
	# what assembles to nothing does not part them
	.file	1 "idle.c"
	pushf
	.loc	1 3
	.cfi_adjust_cfa_offset 8
.Lview1:
	pop	%rax			# site-start: pushf;pop
	push	%rdi
.Lview2:
	.loc	1 4
	popf				# site-start: push;popf
	sti
	.loc	1 5
20:
	.ident	"nobody"
	.set	constant, 3
	.skip	0
	.pushsection .discard.places
	.long	0
	.popsection
	hlt				# site-start: sti;hlt
	sti
	.loc	1 6
	.byte	0x0f
.Lview3:
	.byte	0x01, 0xc9		# site-start: sti;mwait
	rep
	.loc	1 7
	insb				# site-start: ins
	# what is not a sequence
	pushf				# site: pushf
	pop	8(%rsp)
	pushf				# site: pushf
1:	pop	%rax
	push	(%rdi)
	popf				# site: popf
	push	%rax
2:	popf				# site: popf
	.pushsection .rodata
	.quad	1b, 2b, 3f, .Lview4
	.popsection
	push	%rax
	place = .
	popf				# site: popf
	# a slot would be branched into, and a pad would come between the two
	sti				# site: sti shadow
3:	hlt				# site: hlt
	sti				# site: sti shadow
.Lview4:
	mwait				# site: mwait
	sti				# site: sti shadow
	.if	1
	hlt				# site: hlt
	.endif
	.macro	halt
	hlt				# site: hlt
	.endm
	sti				# site: sti shadow
	halt
	sti				# site: sti
3:	nop
	# behind an alternative comes what stands behind its original
	.pushsection .altinstr_replacement, "ax"
4:	sti				# site: sti replacement
5:
	.popsection
	.pushsection .altinstructions, "a"
	.long	4b - .
	.byte	5b - 4b
	.popsection
	nop
	.pushsection .altinstr_replacement, "ax"
	sti				# site: sti replacement shadow
	.popsection
	hlt				# site: hlt
	.cfi_endproc
	.section .debug_info
	.quad	.Lview1, .Lview2, .Lview3
