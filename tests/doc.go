// Package tests holds the black-box tests: the real binary against scripted
// upstreams (package upstreamtest), a real registry and a real Redis. They
// import nothing of the mirror but its fakes. Package harness has their parts,
// and package clients the tests of real clients.
package tests
