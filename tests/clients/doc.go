// Package clients holds the tests of real clients: the programs that people pull
// images and artifacts with, each against the real binary and a real registry.
// matrix_test.go has the table of them and what each pull may cost upstream;
// mirror_test.go has what they pull through.
package clients
