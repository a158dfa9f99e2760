# Two instructions in one slot.
	.text
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
	# what is not a sequence
	pushf				# site: pushf
	pop	8(%rsp)
	pushf				# site: pushf
1:	pop	%rax
	push	(%rdi)
	popf				# site: popf
	push	%rax
2:	popf				# site: popf
	sti				# site: sti
3:	hlt				# site: hlt
