//! The wedge as a program of its own, to be put into an image by `afterburner pack`.
//! `scripts/wedge` builds it.

#![no_std]
#![no_main]

use backends as _;
