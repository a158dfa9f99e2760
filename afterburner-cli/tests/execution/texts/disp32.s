# A branch whose size is forced.
	.text
compute:	mov	%edi,%eax
	{disp32}	jmp .+10
	mov	%ds,%edx
	imul	$31,%eax,%eax
	add	$7,%eax
	ret
	.pushsection	functions,"aw"
	.quad	compute
	.popsection
