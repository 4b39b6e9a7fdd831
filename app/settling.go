package app

import "time"

const (
	// settle is how long the files must be left alone before a reload. Editors write in
	// several steps, all of them within some milliseconds.
	settle = 150 * time.Millisecond
	// settleAtMost bounds the wait in a directory where files change all the time. A
	// change takes effect within two seconds.
	settleAtMost = 10 * settle
)

// settling waits for the last of several changes. The zero value waits for the first one.
type settling struct {
	settled <-chan time.Time // gets a value when the files were left alone; nil: nothing has changed
	first   time.Time        // when the first change came
}

// changed notes a change. It begins the wait again, unless that has lasted too long.
func (s *settling) changed() {
	switch {
	case s.settled == nil:
		s.settled, s.first = time.After(settle), time.Now()
	case time.Since(s.first) < settleAtMost:
		s.settled = time.After(settle)
	}
}
