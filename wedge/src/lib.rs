#![no_std]
//! The wedge.
