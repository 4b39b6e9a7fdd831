// Package clients holds the tests of real clients: the programs that people
// pull images and artifacts with, each against the real binary and a real
// registry. matrix_test.go has the table of the clients and of the requests
// that each pull may cost upstream; mirror_test.go has the mirror that they
// pull through.
package clients
