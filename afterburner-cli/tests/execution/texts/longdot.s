# The same with 32 bits, from the current place.
	.text
compute:	mov	%edi,%eax
	.byte	0xe9
	.long	q-.-4
	mov	%ds,%edx
	imul	$31,%eax,%eax
q:	add	$7,%eax
	ret
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
