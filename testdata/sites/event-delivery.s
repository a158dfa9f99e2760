# Instructions of FRED (flexible return and event delivery), which GNU as 2.40 has no names for.
	.text
	jz	1f
	.byte	0xf2, 0x0f, 0x00, 0xf7	# site: lkgs
	.byte	0xf2, 0x0f, 0x01, 0xca	# site: erets
1:	.byte	0xf3, 0x0f, 0x01, 0xca	# site: eretu
