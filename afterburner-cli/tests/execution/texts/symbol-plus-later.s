# The number is a distance in another section.
	.text
compute:	mov	%edi,%eax
	jmp	p+(e-s)
p:	mov	%ds,%edx
	imul	$31,%eax,%eax
	add	$7,%eax
	ret
	.data
s:	.skip	5
e:
	.text
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
