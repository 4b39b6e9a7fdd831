// Package testutil holds the helpers that the tests of several packages share:
// a log buffer, and the search for programs and privileges that a test needs
// beyond Go. No product package imports it.
package testutil
