# A jump table of distances, which follow the pads.
	.text
compute:	lea	table(%rip),%rdx
	movslq	(%rdx,%rdi,4),%rax
	add	%rdx,%rax
	jmp	*%rax
1:	mov	%ds,%edx
	mov	$1,%eax
	ret
2:	mov	%ds,%edx
	mov	$2,%eax
	ret
3:	mov	%ds,%edx
	mov	$3,%eax
	ret
4:	mov	%ds,%edx
	mov	$4,%eax
	ret
	.section	.rodata
	.balign	4
table:	.long	1b-table,2b-table,3b-table,4b-table
	.text
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
