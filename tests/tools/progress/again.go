package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// mayFail is how many tests may fail and be run again. If more do, something is broken.
const mayFail = 3

// raceReport begins the race detector's report: such a test is never forgiven.
const raceReport = "WARNING: DATA RACE"

// failures are the tests that failed, without the tests that are parts of these.
type failures struct {
	tests  map[string][]string // by package
	ended  map[string]bool     // packages whose tests came to an end
	broken bool                // a data race, or a package that failed otherwise
}

// hear notes a line that a test or package printed.
func (f *failures) hear(t test, text string) {
	f.broken = f.broken || strings.Contains(text, raceReport)
	if t.name == "" && text == "FAIL\n" { // neither a panic, nor a time limit, nor a compiler's error
		f.ended[t.pkg] = true
	}
}

// note notes that a test failed, or a package.
func (f *failures) note(t test) {
	switch {
	case t.name == "":
		f.broken = f.broken || !f.ended[t.pkg] || len(f.tests[t.pkg]) == 0
	case !strings.Contains(t.name, "/"):
		f.tests[t.pkg] = append(f.tests[t.pkg], t.name)
	}
}

// few reports whether the tests may be run again.
func (f *failures) few() bool {
	n := 0
	for _, names := range f.tests {
		n += len(names)
	}
	return !f.broken && 0 < n && n <= mayFail
}

// again runs the tests that failed once more, one at a time and with nothing beside them, and
// returns the exit code of that. Many tests start several mirrors and registries, which
// have limits of a second or less for each other: on a machine that all packages' tests keep
// busy, a process may get no processor for as long. Tests that fail without company fail.
func again(args []string, screen *screen, failed *failures) int {
	pattern := func(names []string) string {
		quoted := make([]string, len(names))
		for i, name := range names {
			quoted[i] = regexp.QuoteMeta(name)
		}
		return "^(" + strings.Join(quoted, "|") + ")$"
	}
	flags := slices.DeleteFunc(slices.Clone(args), func(arg string) bool { return strings.HasPrefix(arg, "./") })
	code := 0
	for pkg, names := range failed.tests {
		fmt.Fprintf(screen, "\nFailed, and run again alone: %s %s\n", pkg, strings.Join(names, ", "))
		once := append(slices.Clone(flags), "-parallel", "1", "-run", pattern(names), pkg)
		if c := run(once, screen, newResults(screen)); c != 0 {
			code = c
			continue
		}
		fmt.Fprintf(screen, "Passed alone: %s %s. It failed beside other tests, for the reason above.\n", pkg, strings.Join(names, ", "))
	}
	return code
}
