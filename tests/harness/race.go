//go:build race

package harness

// Raced reports that the tests run with the race detector, and the mirror with them.
const Raced = true
