// Package tests holds the black-box tests: the real binary against scripted
// upstreams (package upstreamtest), a real registry, a real Redis and real
// clients. They import nothing of the mirror but its fakes.
package tests
