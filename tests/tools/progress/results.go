package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// event is a line of "go test -json" (go doc test2json).
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
}

// test names a test of a package. A package itself is the test "".
type test struct{ pkg, name string }

// results follows tests and prints their results.
type results struct {
	screen *screen

	mu      sync.Mutex
	started map[test]time.Time
	outputs map[test]*strings.Builder // of tests that have not ended
	failed  failures
}

func newResults(screen *screen) *results {
	return &results{screen: screen, started: make(map[test]time.Time), outputs: make(map[test]*strings.Builder), failed: failures{tests: make(map[string][]string), ended: make(map[string]bool)}}
}

// follow reads events to the end.
func (r *results) follow(events io.Reader) {
	decoder := json.NewDecoder(events)
	for {
		var e event
		err := decoder.Decode(&e)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			// The rest is no event: print it as it is.
			fmt.Fprintln(r.screen, "progress:", err)
			_, _ = io.Copy(r.screen, io.MultiReader(decoder.Buffered(), events))
			return
		}
		r.see(e)
	}
}

// see notes an event, and prints the result of a test or package that it ends.
func (r *results) see(e event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := test{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.screen, e.Output)
	case "run", "cont":
		if t.name != "" {
			r.started[t] = time.Now()
		}
	case "pause":
		delete(r.started, t) // it waits for its turn
	case "output":
		r.output(t, e.Output)
	case "pass", "skip":
		r.forget(t)
	case "fail":
		r.fail(t)
	}
}

// output keeps the output of a test until it ends, and prints that of a package
// at once: its result. Lines such as "=== RUN TestX" say no more than the events.
func (r *results) output(t test, text string) {
	r.failed.hear(t, text)
	if strings.HasPrefix(text, "=== ") {
		return
	}
	if t.name == "" {
		if text != "PASS\n" && text != "FAIL\n" {
			fmt.Fprint(r.screen, text)
		}
		return
	}
	if r.outputs[t] == nil {
		r.outputs[t] = new(strings.Builder)
	}
	r.outputs[t].WriteString(text)
}

// fail prints the output of a failed test. A package that panics or takes too
// long fails with tests that never ended: theirs is printed too.
func (r *results) fail(t test) {
	r.failed.note(t)
	for _, other := range slices.SortedFunc(maps.Keys(r.outputs), compare) {
		if other == t || t.name == "" && other.pkg == t.pkg {
			fmt.Fprint(r.screen, r.outputs[other])
			r.forget(other)
		}
	}
	r.forget(t)
}

func (r *results) forget(t test) {
	delete(r.started, t)
	delete(r.outputs, t)
}

// running returns the tests that run, each with its time so far. Of a test with
// subtests only these count.
func (r *results) running() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []string
	for _, t := range slices.SortedFunc(maps.Keys(r.started), compare) {
		hasSubtests := func(o test) bool { return o.pkg == t.pkg && strings.HasPrefix(o.name, t.name+"/") }
		if !slices.ContainsFunc(slices.Collect(maps.Keys(r.started)), hasSubtests) {
			list = append(list, fmt.Sprintf("%s %s (%v)", path.Base(t.pkg), t.name, time.Since(r.started[t]).Round(time.Second)))
		}
	}
	return list
}

func compare(a, b test) int {
	return strings.Compare(a.pkg+" "+a.name, b.pkg+" "+b.name)
}

func join(list []string) string { return strings.Join(list, ", ") }
