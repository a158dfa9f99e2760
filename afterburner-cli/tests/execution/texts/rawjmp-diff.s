# A branch by hand, whose distance follows the pads.
	.text
compute:	mov	%edi,%eax
	.byte	0xeb, q-p
p:	mov	%ds,%edx
	imul	$31,%eax,%eax
q:	add	$7,%eax
	ret
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
