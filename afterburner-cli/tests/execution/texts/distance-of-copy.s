# The number is a distance without a site, elsewhere.
	.text
compute:	mov	%edi,%eax
	jmp	p+(e-s)
p:	mov	%ds,%edx
	imul	$31,%eax,%eax
	add	$7,%eax
	ret
s:	mov	%eax,%edx
	imul	$31,%eax,%eax
e:
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
