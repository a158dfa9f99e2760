# Distances that the text counts in bytes: what lies within is recorded, and not padded.
	.text
	cli				# site: cli
	lea	. + 9(%rip), %rax
	cli				# site: cli counted
	nop
	nop
	nop
	nop
	nop
	nop
	nop
	nop
	nop
	cli				# site: cli
	jmp	first + 2
	.quad	second + 1
first:	cli				# site: cli counted
	nop
	nop
	cli				# site: cli
	call	*third - 2(%rip)
second:	sti				# site: sti counted
	sti				# site: sti
	nop
	nop
	hlt				# site: hlt counted
third:	hlt				# site: hlt
	alias = fourth
	mov	$alias + 2, %eax
fourth:	rdtsc				# site: rdtsc counted
	nop
	nop
	rdtsc				# site: rdtsc
	place = .
	rdmsr				# site: rdmsr counted
	nop
	nop
	rdmsr				# site: rdmsr
	jmp	place + 3
	# a label that only says how much room is left is no name
room:	jmp	numbered
numbered:
	.rept	2
4:	mov	%ds, %edx		# site: mov-from-seg counted
	ret
	.skip	16 - (. - 4b), 0xcc
	.endr
	# branches that are encoded by hand
again:	nop
	.byte	0xeb
	.byte	9
behind:	mov	%ds, %edx		# site: mov-from-seg counted
	nop; nop; nop; nop; nop; nop; nop; nop; nop; nop
	mov	%ds, %edx		# site: mov-from-seg
	nop
	mov	%ds, %edx		# site: mov-from-seg counted
	nop; nop; nop
	.byte	0xe8
	.long	-10
next:
	# entries that are found by their number
	.balign	8
entries:
	.irp	number, 1, 2
	.balign	8
	mov	%ds, %edx		# site: mov-from-seg counted
	ret
	.endr
	.balign	8
nobody:	mov	%es, %edx		# site: mov-from-seg counted
	ret
	# a function has a name
	.globl	function
function:
	mov	%es, %edx		# site: mov-from-seg
	ret
other:
	mov	%es, %edx		# site: mov-from-seg
	jmp	1f
	.if	1
	mov	%ds, %edx		# site: mov-from-seg
	.else
	jmp	1f
	.endif
1:	mov	%ss, %edx		# site: mov-from-seg
	jmp	1b
	int3
	nop
	# numbers that count something else
2:	mov	-8(%rbp), %rax
	mov	data + 8(%rip), %rax
	mov	external + 4(%rip), %rax
	mov	%cr0, %rax		# site: mov-from-cr
	mov	$(2b - 1b), %eax
	.data
data:	.quad	entries, other, behind, room, again, next, 2b
