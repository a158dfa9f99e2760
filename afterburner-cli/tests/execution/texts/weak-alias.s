# A number of bytes from another name of a label.
	.text
compute:	mov	%edi,%eax
	jmp	q+5
p:	mov	%ds,%edx
	imul	$31,%eax,%eax
	add	$7,%eax
	ret
	.weak	q
	.set	q,p
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
