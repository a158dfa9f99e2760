#![no_std]
//! The hosts.
