// Package tests holds the black-box tests: the real binary against scripted
// upstreams (package upstreamtest), a real registry and a real Redis. They import
// nothing of the mirror but its fakes. What they are made of is in package
// harness, and the tests of real clients are in package clients.
package tests
